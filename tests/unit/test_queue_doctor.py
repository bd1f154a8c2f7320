"""`perdure doctor --queue` on a played account: faults are planted through AWS's own calls, and all are found."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from localcloud.aws.cloud_config import CREDENTIALS
from perdure.account.asking import Aws
from perdure.account.checks.job_definitions import ADVISED, judge
from perdure.account.environments import read_user_data
from perdure.account.findings import Severity
from perdure.account.picture import QueuePicture, read_queue
from perdure.account.table import CHECKS, examine
from perdure.cli.main import run
from perdure.domain.retries import RetryStrategy
from tests.documents.book import arguments, filled, told
from tests.unit.cloud_bed import CloudBed, cloud_bed

ROOT = Path(__file__).parents[2]
SOUND = (ROOT / "deploy/launch-template/user-data.txt").read_text()
FAULTY = """#!/bin/sh
mkfs.xfs /dev/nvme1n1 && mount -o noatime /dev/nvme1n1 /fast
echo ECS_CONTAINER_START_TIMEOUT=3m >> /etc/ecs/ecs.config
echo ECS_ENABLE_SPOT_INSTANCE_DRAINING=true >> /etc/ecs/ecs.config
sh perdure-install --from /x --set PERDURE_STATE_DIR=/fast/perdure
"""
EXAMPLE: Any = {
    "attempts": 3,
    "evaluateOnExit": [{"onStatusReason": "Host EC2*", "action": "RETRY"}, {"onReason": "*", "action": "EXIT"}],
}
"""AWS's own example of a strategy for Spot."""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudBed]:
    with cloud_bed(tmp_path_factory.mktemp("cloud"), nodes_per_zone=0) as bed:
        yield bed


@pytest.fixture(autouse=True)
def at_the_desk(bed: CloudBed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a person's shell has set."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": bed.aws.endpoint_url, "AWS_REGION": bed.aws.region}.items():
        monkeypatch.setenv(name, value)


def environment(bed: CloudBed, name: str, user_data: str, zones: int, *, policies: list[str], **more: Any) -> None:
    """A queue and a compute environment of that name, a launch template, and an instance role."""
    encoded = base64.b64encode(user_data.encode()).decode()
    data: Any = {"UserData": encoded, **more.pop("template", {})}
    bed.aws.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
    bed.aws.iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
    profile = bed.aws.iam.create_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Arn"]
    bed.aws.iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    for policy in policies:
        allowed = [{"Effect": "Allow", "Action": "ecs:Poll", "Resource": "*"}]
        document = json.dumps({"Version": "2012-10-17", "Statement": allowed})
        made = bed.aws.iam.create_policy(PolicyName=policy, PolicyDocument=document)["Policy"]["Arn"]
        bed.aws.iam.attach_role_policy(RoleName=name, PolicyArn=made)
    subnets = bed.aws.ec2.describe_subnets()["Subnets"]
    known = bed.aws.batch.describe_compute_environments()["computeEnvironments"][0]
    resources: Any = {
        "type": "SPOT",
        "allocationStrategy": "SPOT_PRICE_CAPACITY_OPTIMIZED",
        "minvCpus": 0,
        "maxvCpus": 256,
        "instanceTypes": ["c5"],
        "subnets": [one["SubnetId"] for one in subnets[:zones]],
        "securityGroupIds": known["computeResources"]["securityGroupIds"],
        "instanceRole": profile,
        "launchTemplate": {"launchTemplateName": name, "version": "$Latest"},
        "ec2Configuration": [{"imageType": "ECS_AL2023"}],
        **more,
    }
    bed.aws.batch.create_compute_environment(
        computeEnvironmentName=name,
        type="MANAGED",
        state="ENABLED",
        serviceRole=known["serviceRole"],
        computeResources=resources,
    )
    order: Any = [{"order": 1, "computeEnvironment": name}]
    bed.aws.batch.create_job_queue(jobQueueName=name, priority=1, state="ENABLED", computeEnvironmentOrder=order)


def define(bed: CloudBed, name: str, **more: Any) -> str:
    """A job definition; its NAME:REVISION."""
    properties: Any = {
        "image": "local",
        "command": ["true"],
        "resourceRequirements": [{"type": "VCPU", "value": "2"}, {"type": "MEMORY", "value": "512"}],
        **more.pop("properties", {}),
    }
    made = bed.aws.batch.register_job_definition(
        jobDefinitionName=name, type="container", containerProperties=properties, **more
    )
    return f"{made['jobDefinitionName']}:{made['revision']}"


@pytest.fixture(scope="module")
def sound(bed: CloudBed) -> str:
    environment(bed, "sound", SOUND, 2, policies=["AmazonEC2ContainerServiceforEC2Role"])
    bed.submit(jobQueue="sound", jobDefinition=define(bed, "sound-job", retryStrategy=ADVISED))
    return "sound"


@pytest.fixture(scope="module")
def faulty(bed: CloudBed) -> str:
    environment(
        bed,
        "faulty",
        FAULTY,
        1,
        policies=["AmazonEC2FullAccess"],
        allocationStrategy="BEST_FIT",
        instanceTypes=["c4", "c5", "m6g"],
        maxvCpus=2048,
        ec2Configuration=[{"imageType": "ECS_AL2_NVIDIA"}],
        template={
            "MetadataOptions": {"HttpEndpoint": "disabled"},
            "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8}}],
        },
    )
    socket = {"volumes": [{"name": "d", "host": {"sourcePath": "/var/run/docker.sock"}}]}
    mount = [{"sourceVolume": "d", "containerPath": "/var/run/docker.sock", "readOnly": False}]
    bed.submit(jobQueue="faulty", jobDefinition=define(bed, "once", properties={**socket, "mountPoints": mount}))
    bed.submit(jobQueue="faulty", jobDefinition=define(bed, "example", retryStrategy=EXAMPLE))
    good = define(bed, "overruled", retryStrategy=ADVISED)
    bed.submit(jobQueue="faulty", jobDefinition=good, retryStrategy={"attempts": 1})
    bed.aws.batch.update_job_queue(jobQueue="faulty", state="DISABLED")
    return "faulty"


def look(queue: str) -> QueuePicture:
    return read_queue(Aws("us-east-1"), queue)


def test_a_sound_queue_is_told_to_be(sound: str, capsys: pytest.CaptureFixture[str]) -> None:
    doctor = arguments(filled(told("docs/account.md", "perdure doctor --queue genomics"), {"genomics": sound}))
    assert run(doctor) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines] == list(CHECKS), lines
    assert all(line.startswith("ok ") for line in lines)


def test_every_planted_fault_is_found(
    bed: CloudBed, faulty: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bed.cloud.quotas, "values", {"L-34B43A08": 640.0, "L-7A658B76": 50.0})
    assert run(["doctor", "--queue", faulty, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    found = {(one["check"], one["severity"]) for one in told["findings"]}
    assert found == {
        ("environment-state", "warning"),
        ("allocation-strategy", "warning"),
        ("zones", "warning"),
        ("launch-template", "error"),
        ("metadata", "error"),
        ("time-outs", "warning"),
        ("checkpoint-place", "error"),
        ("checkpoint-place", "warning"),
        ("image", "warning"),
        ("processors", "error"),
        ("retries", "error"),
        ("retries", "warning"),
        ("job-kind", "error"),
        ("roles", "warning"),
        ("quotas", "warning"),
        ("rights", "note"),
    }
    assert all(one["what"] and one["why"] and one["mend"] for one in told["findings"])
    assert told["good"] == ["environment-kind"]
    by_subject = {one["subject"]: one for one in told["findings"] if one["check"] == "retries"}
    assert "makes 3 attempts" in by_subject["example:1"]["what"]
    assert by_subject["overruled:1"]["safe"] is False, "the definition is good: the client overrules it"
    assert {one["subject"] for one in told["findings"] if one["check"] == "quotas"} == {
        "L-34B43A08 (vCPUs of Spot instances of the standard families (A, C, D, H, I, M, R, T, Z))",
        "L-7A658B76 (TiB of gp3 volumes in the region)",
    }


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"computeResources": {"type": "FARGATE_SPOT"}}, "FARGATE_SPOT"),
        ({"computeResources": {"type": "ECS_MANAGED_INSTANCES"}}, "ECS_MANAGED_INSTANCES"),
        ({"eksConfiguration": {"eksClusterArn": "a"}, "containerOrchestrationType": "EKS"}, "EKS"),
    ],
)
def test_where_no_agent_can_be_nothing_else_is_asked_for(sound: str, changes: dict[str, Any], word: str) -> None:
    picture = look(sound)
    [one] = picture.environments
    picture = replace(picture, environments=(replace(one, shown={**one.shown, **changes}),))
    found = examine(picture)["environment-kind"]
    assert [each.severity for each in found] == [Severity.ERROR] and word in found[0].what


def test_an_update_that_ends_jobs_and_an_old_version_of_the_template(bed: CloudBed, sound: str) -> None:
    picture = look(sound)
    [one] = picture.environments
    old = replace(one, shown={**one.shown, "updatePolicy": {"terminateJobsOnUpdate": True}}, newest_version=7)
    found = examine(replace(picture, environments=(old,)))
    assert [each.severity for each in found["allocation-strategy"]] == [Severity.WARNING]
    assert "the newest is 7" in found["launch-template"][0].what
    without = replace(one, template=None, template_name="", template_version=0, user_data="")
    [missing] = examine(replace(picture, environments=(without,)))["launch-template"]
    assert missing.severity is Severity.ERROR and "create-launch-template" in missing.mend
    [perhaps] = examine(replace(picture, environments=(replace(without, images=({"ImageId": "ami-1"},)),)))[
        "launch-template"
    ]
    assert perhaps.severity is Severity.WARNING, "an image of one's own may hold it"


def test_processors_that_differ_are_named(sound: str) -> None:
    picture = look(sound)
    [one] = picture.environments
    resources = {**one.resources, "instanceTypes": ["c4", "c5.large", "m4"]}
    mixed = replace(one, shown={**one.shown, "computeResources": resources}, instance_types=())
    [found] = examine(replace(picture, environments=(mixed,)))["processors"]
    assert "saved on c5.large may need what c4, m4 lack" in found.what and found.severity is Severity.WARNING


def test_fix_registers_a_revision_with_another_strategy_and_the_rest_as_it_was(
    bed: CloudBed, faulty: str, capsys: pytest.CaptureFixture[str]
) -> None:
    old = bed.aws.batch.describe_job_definitions(jobDefinitionName="once")["jobDefinitions"][0]
    fix = arguments(told("docs/aws-assumptions.md", "perdure doctor --fix"))
    assert run([*fix, "--queue", faulty, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert {one["subject"] for one in answer["fixed"]} == {"once:1", "example:1"}
    both = bed.aws.batch.describe_job_definitions(jobDefinitionName="once", status="ACTIVE")["jobDefinitions"]
    [new] = [one for one in both if one["revision"] == 2]
    assert len(both) == 2 and judge(RetryStrategy.of_batch(dict(new["retryStrategy"]))) is None
    changed = {"revision", "jobDefinitionArn", "retryStrategy"}
    assert {k: v for k, v in new.items() if k not in changed} == {k: v for k, v in old.items() if k not in changed}


def test_an_older_revision_is_not_made_the_newest(bed: CloudBed, sound: str) -> None:
    environment(bed, "aged", SOUND, 2, policies=[])
    old = define(bed, "aged-job")
    bed.submit(jobQueue="aged", jobDefinition=old)
    define(bed, "aged-job", properties={"command": ["something", "newer"]}, retryStrategy=ADVISED)
    [found] = examine(look("aged"))["retries"]
    assert found.subject == old and found.safe is None and "revision 2, the newest" in found.mend
    bed.aws.batch.deregister_job_definition(jobDefinition="aged-job:2")
    [found] = examine(look("aged"))["retries"]
    assert found.safe is not None, "now the old one is the newest again"


def test_without_jobs_the_newest_revision_of_each_name_is_looked_at(bed: CloudBed, sound: str) -> None:
    environment(bed, "unused", SOUND, 2, policies=[])
    define(bed, "revised")
    define(bed, "revised", retryStrategy=ADVISED)
    names = [one.name for one in look("unused").definitions]
    assert "revised:2" in names and "revised:1" not in names


@pytest.mark.parametrize(
    ("strategy", "severity"),
    [
        ({}, Severity.ERROR),
        ({"attempts": 1}, Severity.ERROR),
        (
            {
                "attempts": 10,
                "evaluateOnExit": [{"onExitCode": "1", "action": "RETRY"}, {"onReason": "*", "action": "EXIT"}],
            },
            Severity.ERROR,
        ),
        (EXAMPLE, Severity.WARNING),
        ({**EXAMPLE, "attempts": 10}, Severity.NOTE),
        ({"attempts": 10}, None),
        (ADVISED, None),
    ],
)
def test_strategies_are_judged_by_what_batch_would_do(strategy: dict[str, Any], severity: Severity | None) -> None:
    found = judge(RetryStrategy.of_batch(strategy))
    assert (found[0] if found else None) is severity


def test_what_is_asked_for_wrongly_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["doctor", "--queue", "nowhere"]) == 2
    assert "none of that name in us-east-1" in capsys.readouterr().err
    assert run(["doctor", "--fix"]) == 2
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert run(["doctor", "--queue", "sound"]) == 2
    assert "nobody" in capsys.readouterr().err


def test_user_data_of_every_shape_is_read() -> None:
    text, multipart = read_user_data(base64.b64encode(SOUND.encode()).decode())
    assert multipart and "perdure-install" in text
    assert read_user_data(base64.b64encode(FAULTY.encode()).decode()) == (FAULTY, False)
    assert read_user_data("") == ("", False) and read_user_data("%%%") == ("", False)
    assert read_user_data(base64.b64encode(b"\x1f\x8b\xff").decode()) == ("", False)


_REFUSALS = {
    "ec2": "<Response><Errors><Error><Code>UnauthorizedOperation</Code></Error></Errors></Response>",
    "iam": "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>",
    "service-quotas": '{"__type": "AccessDeniedException", "Message": "no"}',
}


class _Refusing(http.server.BaseHTTPRequestHandler):
    """AWS for somebody who may look at nothing; the path's first word is the service."""

    def do_POST(self) -> None:
        body = _REFUSALS[self.path.split("/")[1]].encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def test_what_may_not_be_looked_at_is_not_called_good(
    sound: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for service in _REFUSALS:
            name = f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_')}"
            monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}/{service}")
        assert run(["doctor", "--queue", sound, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert run(["doctor", "--queue", sound]) == 0
        server.shutdown()
    assert {one["check"] for one in told["findings"]} == {"rights"}
    assert all(one["mend"].startswith("grant ") for one in told["findings"])
    assert told["good"] == ["environment-kind", "environment-state", "allocation-strategy", "retries", "job-kind"]
    assert told["unseen"].keys() == CHECKS.keys() - {*told["good"], "rights"}
    assert "unseen   roles: iam:GetInstanceProfile had no answer" in capsys.readouterr().out


def test_a_template_and_an_image_that_are_gone(bed: CloudBed, sound: str) -> None:
    gone = [{"imageType": "ECS_AL2023", "imageIdOverride": "ami-0123456789abcdef0"}]
    environment(bed, "gone", SOUND, 2, policies=[], ec2Configuration=gone)
    bed.aws.ec2.delete_launch_template(LaunchTemplateName="gone")
    found = examine(look("gone"))
    [template], [image] = found["launch-template"], found["image"]
    assert template.severity is Severity.ERROR and "gone is gone" in template.what
    assert image.severity is Severity.ERROR and "ami-0123456789abcdef0" in image.what


def test_every_right_that_is_asked_for_is_one_that_a_check_rests_on() -> None:
    statements = json.loads((ROOT / "deploy/iam/looking.json").read_text())["Statement"]
    for_assess = {"ec2:DescribeInstances", "ec2:DescribeSpotPriceHistory", "ecs:DescribeContainerInstances"}
    reading = set(statements[0]["Action"]) - for_assess - {"batch:DescribeJobQueues"}
    assert {right for check in CHECKS.values() for right in check.rests_on} == reading
