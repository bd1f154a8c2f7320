"""deploy/terraform against what Terraform's AWS provider takes: the oldest version that the files allow, and a new one.

`terraform validate` itself needs the provider, which is no package of PyPI or npm. What it takes is written down in
terraform_provider (scripts/terraform_schema.py).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest

from scripts.terraform_schema import KEPT, TERRAFORM, kinds

_OF_TERRAFORM = {"count", "depends_on", "for_each", "lifecycle", "provider", "__is_block__", "__comments__"}
"""What Terraform itself takes in every block, and the marks of its reader."""
VERSIONS = sorted(KEPT.glob("*.json"))


_parsed = functools.cache(hcl2.loads)


def faults(text: str, provider: dict[str, Any]) -> list[str]:
    """What the provider would refuse in `text`, or could not give it."""
    found: list[str] = []
    merged = _parsed(text)
    for word in ("resource", "data"):
        for one in merged.get(word, []):
            kind, named = next((kind.strip('"'), named) for kind, named in one.items())
            known = provider["data." * (word == "data") + kind]
            found += [
                f"{kind}: {fault}" for block in named.values() if block is not True for fault in _block(block, known)
            ]
    return found + list(_read(re.sub(r"#.*", "", text), provider))


def _block(block: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
    for name in block.keys() - known["arguments"].keys() - _OF_TERRAFORM:
        yield f"{name} is unknown"
    for name in set(known.get("required", [])) - block.keys():
        yield f"{name} is missing"
    for name in block.keys() & known["arguments"].keys():
        yield from _value(name, block[name], known)


def _value(name: str, value: Any, known: dict[str, Any]) -> Iterator[str]:
    wanted = known["arguments"][name]
    blocks = isinstance(value, list) and all(isinstance(one, dict) and "__is_block__" in one for one in value)
    if isinstance(value, str) and value.startswith("${"):
        return  # An expression: its value is known to Terraform alone.
    if wanted == "block" or (blocks and value):
        if wanted != "block" or not blocks:
            yield f"{name} is no {'block' if wanted != 'block' else 'value'}"
            return
        if name in known.get("single", []) and len(value) > 1:
            yield f"{name} stands more than once"
        for one in value:
            yield from (f"{name}.{fault}" for fault in _block(one, known["blocks"][name]))
    elif wanted != ("many" if isinstance(value, list) else "map" if isinstance(value, dict) else "one"):
        yield f"{name} is not {wanted}"


def _read(text: str, provider: dict[str, Any]) -> Iterator[str]:
    for data, kind, attribute in re.findall(r"\b(data\.)?(aws_\w+)\.\w+(?:\[[^\]]+\])?\.(\w+)", text):
        if attribute not in provider[data + kind]["read"]:
            yield f"{data}{kind} has no {attribute}"


def _text() -> str:
    return "\n".join(path.read_text() for path in sorted(TERRAFORM.glob("*.tf")))


@pytest.mark.parametrize("path", VERSIONS, ids=lambda path: path.stem)
def test_the_provider_takes_every_argument(path: Path) -> None:
    provider = json.loads(path.read_text())
    assert kinds(_text()) == provider.keys(), "run scripts/terraform_schema.py for the new kinds"
    assert not faults(_text(), provider)


def test_the_oldest_version_that_is_allowed_is_among_them() -> None:
    allowed = re.search(r'source  = "hashicorp/aws"\s+version = ">= (\S+)"', _text())
    assert allowed and VERSIONS[0].stem == f"{allowed[1]}.0"


_RULES = "aws_s3_bucket_lifecycle_configuration"
_WRONG = [
    ("enable_key_rotation", "enable_rotation", "aws_kms_key: enable_rotation is unknown"),
    ("  vpc_id      = var.vpc\n  egress", "  vpc = var.vpc\n  egress", "aws_security_group: vpc is unknown"),
    ('protocol  = "email"', "", "aws_sns_topic_subscription: protocol is missing"),
    ("volume_size = 20", "size = 20", "aws_instance: root_block_device.size is unknown"),
    ("metadata_options {", "metadata_options = {", "aws_instance: metadata_options is no value"),
    ("  dimensions  ", "  dimensions {}\n  #", "aws_cloudwatch_metric_alarm: dimensions is no block"),
    ('ks = ["0.0.0.0/0"]', 'ks = "0.0.0.0/0"', "aws_security_group: egress.cidr_blocks is not many"),
    ("  filter {}", "  filter {}\n  filter {}", f"{_RULES}: rule.filter stands more than once"),
    ("aws_sns_topic.alarms.arn", "aws_sns_topic.alarms.address", "aws_sns_topic has no address"),
]


def test_each_kind_of_fault_is_found() -> None:
    text = _text()
    for right, wrong, _ in _WRONG:
        assert right in text
        text = text.replace(right, wrong, 1)
    assert sorted(faults(text, json.loads(VERSIONS[0].read_text()))) == sorted(fault for _, _, fault in _WRONG)
