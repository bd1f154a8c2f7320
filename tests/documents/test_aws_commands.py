"""The documents' commands for AWS, typed as they stand: by Debian's AWS command line, which a server's machine has,
against the AWS that moto simulates (tests/documents/simulated_aws.py)."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import boto3
import pytest

from tests.documents.book import ROOT, block, filled, told, typed
from tests.documents.simulated_aws import IMAGE
from tests.patience import PATIENCE

AWS, REGION = "/usr/bin/aws", "us-east-1"


@dataclass(frozen=True)
class Account:
    """An account at `url`; `programs` has an `aws` that asks there (Debian's does not know AWS_ENDPOINT_URL yet)."""

    url: str
    programs: Path

    def typed(self, lines: list[str] | str, folder: Path = ROOT, **environment: str) -> str:
        path = f"{self.programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": REGION}
        return typed(lines, PATIENCE, folder, PATH=path, **keys, **environment)

    def client(self, service: Literal["ec2", "s3", "cognito-idp"]) -> Any:
        """For what a test asks by itself."""
        return boto3.Session("x", "x", region_name=REGION).client(service, endpoint_url=self.url)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    programs = tmp_path_factory.mktemp("programs")
    argv = [sys.executable, "-m", "tests.documents.simulated_aws"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            (programs / "aws").write_text(f'#!/bin/sh\nexec {AWS} --endpoint-url {url} "$@"\n')
            (programs / "aws").chmod(0o755)
            yield Account(url, programs)
        finally:
            server.kill()


def test_the_stack_of_the_server(account: Account, tmp_path: Path) -> None:
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    (tmp_path / "perdure-0.1.0.tar.gz").write_bytes(b"the sources")
    ec2, s3 = account.client("ec2"), account.client("s3")
    s3.create_bucket(Bucket="releases")
    subnet = ec2.describe_subnets()["Subnets"][0]
    lines = "\n".join(block("docs/server-stack.md", "aws s3 cp perdure-0.1.0.tar.gz"))
    values = {
        "BUCKET": "releases",
        "vpc-…": subnet["VpcId"],
        "subnet-…": subnet["SubnetId"],
        "AvailabilityZone=…": f"AvailabilityZone={subnet['AvailabilityZone']}",
        "…/32": "198.51.100.7/32",
        "SourceSha256=…": "SourceSha256=$(sha256sum perdure-0.1.0.tar.gz | cut -d ' ' -f 1)",
    }
    assert "Successfully created/updated stack - perdure" in account.typed(filled(lines, values), tmp_path)
    assert s3.get_object(Bucket="releases", Key="perdure.tar.gz")["Body"].read() == b"the sources"
    [found] = ec2.describe_instances()["Reservations"]
    [server] = found["Instances"]
    assert server["ImageId"] == IMAGE
    given = ec2.describe_instance_attribute(InstanceId=server["InstanceId"], Attribute="userData")["UserData"]["Value"]
    user_data = base64.b64decode(given).decode()
    assert "aws s3 cp --region us-east-1 s3://releases/perdure.tar.gz /root/perdure.tar.gz\n" in user_data
    assert "${" not in user_data, "every reference is resolved"

    line = told("docs/server.md", "aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2")
    account.typed(f"{line} --instance-id {server['InstanceId']}")
    line = told("docs/server-stack.md", "aws cloudformation delete-stack")
    account.typed(f"{line} --stack-name perdure")
    assert ec2.describe_instances()["Reservations"][0]["Instances"][0]["State"]["Name"] == "terminated"


def test_the_launch_template(account: Account, tmp_path: Path) -> None:
    text = (ROOT / "deploy/launch-template/user-data.txt").read_text()
    (tmp_path / "user-data.txt").write_text(text)
    account.typed(block("docs/install.md", "aws ec2 create-launch-template"), tmp_path)
    found = account.client("ec2").describe_launch_template_versions(LaunchTemplateName="perdure")
    [version] = found["LaunchTemplateVersions"]
    assert base64.b64decode(version["LaunchTemplateData"]["UserData"]).decode() == text


def test_a_user_pool_and_a_server_that_goes_by_it(account: Account, tmp_path: Path) -> None:
    pool = block("docs/sign-in.md", "REGION=us-east-1")
    domain = block("docs/sign-in.md", "aws cognito-idp create-user-pool-domain")
    on = block("docs/sign-in.md", "perdure auth cognito enable")
    said = account.typed([*pool, *domain, *on], PERDURE_DATABASE_URL=f"sqlite:///{tmp_path}/perdure.db")
    found = re.search(r"Sign-in is on: pool (\S+), admins are members of admin", said)
    assert found is not None and "Sign-in with Cognito is off" in said, said
    pools = account.client("cognito-idp")
    [client] = pools.list_user_pool_clients(UserPoolId=found[1], MaxResults=10)["UserPoolClients"]
    shown = rf"client id +{client['ClientId']}\n +domain +https://my-perdure\.auth\.{REGION}\.amazoncognito\.com"
    assert re.search(shown, said), said
    groups = pools.admin_list_groups_for_user(UserPoolId=found[1], Username="ann")["Groups"]
    assert [one["GroupName"] for one in groups] == ["admin"]
