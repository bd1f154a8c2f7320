"""deploy/iam holds exactly the rights that the code uses, process by process, and touches nothing without our tag."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import xform_name

from activities.ebs_answers import MANAGED_TAG
from perdure.domain.configuration import StoreConfiguration

ROOT = Path(__file__).parents[2]
CODE = {
    "control": ["activities", "perdure/stores"],
    "agent": ["worker_agent", "perdure/image", "perdure/stores"],
    "api": ["api"],
    "looking": ["perdure/account"],
}
"""`looking` is nobody's role: what `perdure doctor --queue` and `perdure assess` need of the person who types them."""
_CLIENTS = {"client", "_client", "_unsigned_client", "create_client"}
"""Functions that make a client of a service that is named by their first argument."""
BESIDES = {
    # The installer's curl; iam:PassRole is asked for by AWS when a job definition with roles is registered.
    "agent": {"s3:GetObject"},
    "control": {"iam:PassRole"},
    "api": set[str](),
    # Both are asked for by AWS when a definition with roles or tags is registered.
    "looking": {"iam:PassRole", "batch:TagResource"},
}
_RIGHTS_OF = {"service-quotas": "servicequotas"}
"""Services whose rights do not bear the name of the service."""
UNSIGNED = {
    *("cognito-idp:InitiateAuth", "cognito-idp:RespondToAuthChallenge", "cognito-idp:RevokeToken"),
    "cognito-idp:GlobalSignOut",
}
"""They need no credentials (Cognito API reference: not evaluated by IAM)."""
S3_RIGHTS = {
    "HeadObject": {"s3:GetObject"},
    "GetObject": {"s3:GetObject"},
    "PutObject": {"s3:PutObject"},
    "CreateMultipartUpload": {"s3:PutObject"},
    "UploadPart": {"s3:PutObject"},
    "CompleteMultipartUpload": {"s3:PutObject"},
    "AbortMultipartUpload": {"s3:AbortMultipartUpload"},
    "ListMultipartUploads": {"s3:ListBucketMultipartUploads"},
    "ListParts": {"s3:ListMultipartUploadParts"},
    "ListObjectsV2": {"s3:ListBucket"},
    "HeadBucket": {"s3:ListBucket"},
    "DeleteObject": {"s3:DeleteObject"},
    "DeleteObjects": {"s3:DeleteObject"},
    "CopyObject": {"s3:GetObject", "s3:PutObject"},
}
"""S3's rights are not called as its operations are (S3 user guide, "Required permissions for S3 API operations")."""


def _operations(service: str) -> dict[str, str]:
    """Method of the client → the operation's name."""
    model = botocore.session.get_session().get_service_model(service)
    return {xform_name(name): name for name in model.operation_names}


class Calls(ast.NodeVisitor):
    """Names of services, and of everything that might be a method of a client."""

    def __init__(self) -> None:
        self.services: set[str] = set()
        self.methods: set[str] = set()

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            if name in _CLIENTS:
                self.services.add(first.value)
            elif name in {"get_paginator", "get_waiter", "_ask"}:
                self.methods.add(first.value)
            elif name == "pages" and isinstance(node.args[1], ast.Constant):
                self.services.add(first.value)
                self.methods.add(str(node.args[1].value))
            elif name == "_send":  # perdure/stores/s3.py sends bodies itself
                self.methods.add(f"{first.value.lower()}_object")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.methods.add(node.attr)
        self.generic_visit(node)


def used(process: str) -> set[str]:
    """The rights that the process's code needs, as SERVICE:Operation."""
    files = [path for name in CODE[process] for path in (ROOT / name).rglob("*.py") if path.name != "__main__.py"]
    seen = [Calls() for _ in files]
    for calls, path in zip(seen, files, strict=True):
        calls.visit(ast.parse(path.read_text()))
    found: set[str] = set()
    for service in {service for calls in seen for service in calls.services}:
        operations = _operations(service)
        for calls in seen:
            for method in calls.methods & operations.keys():
                operation = operations[method]
                found |= (
                    S3_RIGHTS[operation] if service == "s3" else {f"{_RIGHTS_OF.get(service, service)}:{operation}"}
                )
    return found


def _statements(process: str) -> list[dict[str, Any]]:
    path = ROOT / f"deploy/iam/{process}.json"
    return json.loads(path.read_text())["Statement"] if path.exists() else []


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@pytest.mark.parametrize("process", CODE)
def test_each_process_may_do_what_it_does_and_nothing_else(process: str) -> None:
    granted = {action for statement in _statements(process) for action in _listed(statement["Action"])}
    assert not [action for action in granted if "*" in action], "each right by its name"
    assert granted == (used(process) | BESIDES[process]) - UNSIGNED


def test_the_walk_sees_the_calls() -> None:
    """So that an empty answer is no proof of anything."""
    assert {"ec2:CreateVolume", "batch:DescribeJobs", "pricing:GetProducts", "ec2:DescribeSpotPriceHistory"} <= used(
        "control"
    )
    assert used("api") == UNSIGNED
    assert {"batch:DescribeJobQueues", "servicequotas:GetServiceQuota", "iam:GetRolePolicy"} <= used("looking")
    assert {"s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:ListBucket"} <= used("agent")


def test_the_agent_changes_nothing_in_ec2() -> None:
    rights = {action for statement in _statements("agent") for action in _listed(statement["Action"])}
    assert {action.partition(":")[0] for action in rights} <= {"s3", "kms"}


@pytest.mark.parametrize("statement", _statements("control"), ids=lambda statement: statement["Sid"])
def test_volumes_and_snapshots_are_touched_only_with_our_tag(statement: dict[str, Any]) -> None:
    changing = [
        action for action in _listed(statement["Action"]) if action.startswith("ec2:") and ":Describe" not in action
    ]
    of_others = [name for name in _listed(statement["Resource"]) if not name.endswith(":instance/*")]
    if not changing or not of_others:
        return
    conditions = statement["Condition"]["StringEquals"]
    tags = {f"aws:{kind}/{MANAGED_TAG}" for kind in ("RequestTag", "ResourceTag")}
    assert any(conditions.get(tag) == "true" for tag in tags) or "ec2:CreateAction" in conditions


@pytest.mark.parametrize("name", ["agent", "control"])
def test_the_store_that_is_allowed_is_the_one_that_is_usual(name: str) -> None:
    """Whoever sets nothing but the bucket has these rights in it."""
    statements = {one["Sid"]: one for one in json.loads((ROOT / f"deploy/iam/{name}.json").read_text())["Statement"]}
    below = f"{StoreConfiguration().prefix}*"
    assert statements["KeepCheckpointsInTheStore"]["Resource"] == f"arn:aws:s3:::REPLACE-ME-BUCKET/{below}"
    assert statements["ListCheckpointsInTheStore"]["Condition"] == {"StringLike": {"s3:prefix": below}}
