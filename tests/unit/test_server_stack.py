"""deploy/cloudformation and deploy/terraform: valid as far as it can be had here, the same thing, and of one mind with
deploy/iam. Nobody has created either on AWS."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from activities.interruption_events import ANNOUNCEMENTS
from activities.job_events import JOB_STATE_CHANGE, TOLD_STATES
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "deploy/cloudformation/server.yaml"
TERRAFORM = ROOT / "deploy/terraform"
_KIND = {
    "AWS::KMS::Key": "aws_kms_key",
    "AWS::S3::Bucket": "aws_s3_bucket",
    "AWS::S3::BucketPolicy": "aws_s3_bucket_policy",
    "AWS::SQS::Queue": "aws_sqs_queue",
    "AWS::SQS::QueuePolicy": "aws_sqs_queue_policy",
    "AWS::Events::Rule": "aws_cloudwatch_event_rule",
    "AWS::EC2::SecurityGroup": "aws_security_group",
    "AWS::IAM::Role": "aws_iam_role",
    "AWS::IAM::InstanceProfile": "aws_iam_instance_profile",
    "AWS::IAM::ManagedPolicy": "aws_iam_policy",
    "AWS::EC2::Volume": "aws_ebs_volume",
    "AWS::EC2::Instance": "aws_instance",
    "AWS::EC2::VolumeAttachment": "aws_volume_attachment",
    "AWS::SNS::Topic": "aws_sns_topic",
    "AWS::SNS::Subscription": "aws_sns_topic_subscription",
    "AWS::CloudWatch::Alarm": "aws_cloudwatch_metric_alarm",
    "AWS::EC2::VPCEndpoint": "aws_vpc_endpoint",
}


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as plain values."""


def _short_form(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


_Loader.add_multi_constructor("!", _short_form)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(TEMPLATE.read_text(), _Loader)
    return found


def _terraform() -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for path in sorted(TERRAFORM.glob("*.tf")):
        for kind, blocks in hcl2.loads(path.read_text()).items():
            merged.setdefault(kind, []).extend(blocks)
    return merged


def test_cloudformation_takes_the_template() -> None:
    argv = [str(Path(sys.executable).with_name("cfn-lint")), "--non-zero-exit-code", "warning", str(TEMPLATE)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rights_are_those_of_deploy_iam(template: dict[str, Any]) -> None:
    resources = template["Resources"]
    control = next(one for one in resources["ServerRole"]["Properties"]["Policies"] if one["PolicyName"] == "control")
    documents = {
        "control": control["PolicyDocument"],
        "agent": resources["AgentPolicy"]["Properties"]["PolicyDocument"],
    }
    for name, document in documents.items():
        wanted = json.loads((ROOT / f"deploy/iam/{name}.json").read_text())["Statement"]
        found = [one for one in document["Statement"] if one["Sid"] != "UseTheKey"]
        assert [one["Sid"] for one in found] == [one["Sid"] for one in wanted]
        for one, other in zip(found, wanted, strict=True):
            assert {key: one.get(key) for key in ("Action", "Condition", "Effect")} == {
                key: other.get(key) for key in ("Action", "Condition", "Effect")
            }
            assert _places(one["Resource"]) == _places(other["Resource"])


def _places(resource: str | list[str]) -> list[str]:
    """Without the names that each account gives."""
    words = {"${AWS::Partition}": "aws", "${SourceBucket}/*": "BUCKET/perdure-release/*", "${Store}": "BUCKET"}
    found = [resource] if isinstance(resource, str) else resource
    for word, plain in words.items():
        found = [one.replace(word, plain) for one in found]
    return [one.replace("REPLACE-ME-BUCKET", "BUCKET") for one in found]


def test_the_rules_send_what_the_control_worker_reads(template: dict[str, Any]) -> None:
    announcements = template["Resources"]["InterruptionRule"]["Properties"]["EventPattern"]
    assert announcements == {"source": ["aws.ec2"], "detail-type": list(ANNOUNCEMENTS)}
    jobs = template["Resources"]["JobRule"]["Properties"]["EventPattern"]
    assert (jobs["source"], jobs["detail-type"]) == (["aws.batch"], [JOB_STATE_CHANGE])
    assert jobs["detail"]["status"] == list(TOLD_STATES)
    found = [
        re.findall(r'"([^"]+)"', values)
        for _, values in re.findall(
            r'("detail-type"|status) *= \[(.*?)\]', (TERRAFORM / "main.tf").read_text(), re.DOTALL
        )
    ]
    assert found == [list(ANNOUNCEMENTS), [JOB_STATE_CHANGE], list(TOLD_STATES)]


def test_strangers_reach_nothing_and_instances_the_gate_alone(template: dict[str, Any]) -> None:
    resources = template["Resources"]
    ingress = resources["ServerGroup"]["Properties"]["SecurityGroupIngress"]
    assert {(one["FromPort"], one.get("CidrIp") or one["SourceSecurityGroupId"]) for one in ingress} == {
        (8443, "AdministratorsCidr"),
        (7234, "InstancesGroup"),
    }
    assert "SecurityGroupIngress" not in resources["InstancesGroup"]["Properties"]
    assert resources["Server"]["Properties"]["MetadataOptions"]["HttpTokens"] == "required"
    assert resources["Data"]["Properties"]["Encrypted"] is True and resources["Data"]["DeletionPolicy"] == "Snapshot"
    assert resources["Store"]["DeletionPolicy"] == resources["Key"]["DeletionPolicy"] == "Retain"


def test_terraform_makes_the_same_things(template: dict[str, Any]) -> None:
    found = {_plain(kind) for block in _terraform()["resource"] for kind in block}
    assert {_KIND[one["Type"]] for one in template["Resources"].values()} <= found
    parameters = set(template["Parameters"])
    variables = {_plain(name) for block in _terraform()["variable"] for name in block}
    # The zone and the image are looked up there; Source is a word of Terraform's own.
    assert len(variables) == len(parameters) - 2
    outputs = {_plain(name).replace("_", "") for block in _terraform()["output"] for name in block}
    assert outputs == {name.lower() for name in template["Outputs"]}


def _plain(name: str) -> str:
    return name.strip('"')


def test_every_reference_of_terraform_is_to_something_that_is_there() -> None:
    """What `terraform validate` would say first; its provider cannot be had here."""
    merged = _terraform()
    there = {
        f"{_plain(kind)}.{_plain(name)}" for block in merged["resource"] for kind, one in block.items() for name in one
    }
    there |= {
        f"data.{_plain(kind)}.{_plain(name)}" for block in merged["data"] for kind, one in block.items() for name in one
    }
    there |= {f"var.{_plain(name)}" for block in merged["variable"] for name in block}
    text = "".join(path.read_text() for path in TERRAFORM.glob("*.tf"))
    text = re.sub(r"#.*", "", text)
    used = set(re.findall(r"\b(data\.aws_\w+\.\w+|(?<!data\.)aws_\w+\.\w+|var\.\w+)\b", text))
    assert used and used <= there, used - there
    names = set(re.findall(r"\$\{(\w+)\}", (TERRAFORM / "user-data.sh").read_text()))
    assert names == {"region", "source", "sha256", "volume", "queue", "job_events", "job_queues"}


@pytest.mark.parametrize("name", ["deploy/server/first-boot.sh", "deploy/docker/temporal-certificates.sh"])
def test_scripts_are_sound(name: str) -> None:
    argv = [str(Path(sys.executable).with_name("shellcheck")), str(ROOT / name)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout


def test_both_stacks_boot_the_server_alike(template: dict[str, Any]) -> None:
    given = template["Resources"]["Server"]["Properties"]["UserData"]["Fn::Base64"]
    given = given.replace("AWS::Region", "region").replace("SourceSha256", "sha256").replace("Source}", "source}")
    given = given.replace("${Data}", "${volume}").replace("${Interruptions}", "${queue}")
    given = given.replace("${JobEvents}", "${job_events}").replace("${JobQueues}", "${job_queues}")
    assert given.split() == (TERRAFORM / "user-data.sh").read_text().split()


def test_the_gates_certificate_follows_the_servers_names_and_instances_keep_theirs(tmp_path: Path) -> None:
    folder = tmp_path / "certificates"

    def made(*hosts: str) -> dict[str, bytes]:
        argv = ["sh", str(ROOT / "deploy/docker/temporal-certificates.sh"), str(folder), *hosts]
        subprocess.run(argv, check=True, capture_output=True, timeout=PATIENCE)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    first = made("10.0.0.7")
    assert b'address = "10.0.0.7:7234"' in first["temporal.toml"] and made("10.0.0.7") == first
    named = made("perdure.example", "10.0.0.8")
    assert {name for name in first if named[name] != first[name]} == {"gate.pem", "temporal.toml", "authority.srl"}
    assert b'address = "perdure.example:7234"' in named["temporal.toml"]
    (folder / "authority.key").unlink()
    assert made("perdure.example", "10.0.0.9")["gate.pem"] == named["gate.pem"], "nobody can sign another one"
