"""Compute environments with what they refer to: launch template, images, instance types, zones."""

from __future__ import annotations

import base64
import binascii
import email
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from perdure.account.asking import Aws

Shown = dict[str, Any]
"""Something as AWS shows it."""


@dataclass(frozen=True)
class Environment:
    """A compute environment of the queue with what it refers to. `template`: the data of the launch template's version
    in use; `template_version` its number; `newest_version` the newest there is. `user_data`: text, all parts of it."""

    shown: Shown
    template: Shown | None = None
    template_name: str = ""
    template_version: int = 0
    newest_version: int = 0
    user_data: str = ""
    user_data_is_multipart: bool = False
    images: tuple[Shown, ...] = ()
    instance_types: tuple[Shown, ...] = ()
    zones: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """AWS's."""
        return str(self.shown["computeEnvironmentName"])

    @property
    def resources(self) -> Shown:
        """`computeResources`; empty for an unmanaged one."""
        return dict(self.shown.get("computeResources") or {})


def read_environment(aws: Aws, shown: Shown) -> Environment:
    resources = shown.get("computeResources") or {}
    template, name, version, newest = _template(aws, resources.get("launchTemplate"))
    text, multipart = read_user_data(str((template or {}).get("UserData", "")))
    ec2 = aws.client("ec2")
    images = {str(one["imageIdOverride"]) for one in resources.get("ec2Configuration", []) if "imageIdOverride" in one}
    images |= {str(found) for found in (resources.get("imageId"), (template or {}).get("ImageId")) if found}
    subnets = list(resources.get("subnets", []))
    return Environment(
        shown=shown,
        template=template,
        template_name=name,
        template_version=version,
        newest_version=newest,
        user_data=text,
        user_data_is_multipart=multipart,
        images=tuple(
            aws.ask(
                "ec2:DescribeImages",
                lambda: ec2.describe_images(ImageIds=sorted(images))["Images"] if images else [],
                list[Shown](),
            )
        ),
        instance_types=tuple(_instance_types(aws, resources.get("instanceTypes", []))),
        zones=frozenset(
            str(one["AvailabilityZone"])
            for one in aws.ask(
                "ec2:DescribeSubnets",
                lambda: ec2.describe_subnets(SubnetIds=subnets)["Subnets"] if subnets else [],
                list[Shown](),
            )
        ),
    )


def _template(aws: Aws, named: Shown | None) -> tuple[Shown | None, str, int, int]:
    """(data, name, version in use, newest version) of a launch template."""
    if not named:
        return None, "", 0, 0
    by: Shown = (
        {"LaunchTemplateId": named["launchTemplateId"]}
        if named.get("launchTemplateId")
        else {"LaunchTemplateName": named.get("launchTemplateName", "")}
    )
    name = str(named.get("launchTemplateName") or named.get("launchTemplateId"))
    version = named.get("version") or "$Default"
    ec2 = aws.client("ec2")
    found = aws.ask(
        "ec2:DescribeLaunchTemplateVersions",
        lambda: ec2.describe_launch_template_versions(Versions=[version, "$Latest"], **by)["LaunchTemplateVersions"],
        list[Shown](),
    )
    if not found:
        return None, name, 0, 0
    newest = max(int(one["VersionNumber"]) for one in found)
    used = next(
        (
            one
            for one in found
            if str(one["VersionNumber"]) == version
            or (version == "$Default" and one.get("DefaultVersion"))
            or (version == "$Latest" and one["VersionNumber"] == newest)
        ),
        found[0],
    )
    return dict(used["LaunchTemplateData"]), name, int(used["VersionNumber"]), newest


def read_user_data(encoded: str) -> tuple[str, bool]:
    """(text of all parts, is it a MIME multipart file) of a launch template's user data; ("", False) for none, or for
    something that is no text."""
    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError):
        return "", False
    message = email.message_from_string(text)
    if not message.is_multipart():
        return text, False
    parts = [part.get_payload(decode=True) for part in message.walk() if not part.is_multipart()]
    return "\n".join(part.decode(errors="replace") for part in parts if isinstance(part, bytes)), True


def _instance_types(aws: Aws, named: Iterable[str]) -> list[Shown]:
    """What EC2 says about the types named, whole families included (`c5` is `c5.*`). `optimal` names none."""
    patterns = [name if "." in name else f"{name}.*" for name in named if name != "optimal"]
    if not patterns:
        return []
    filters = [{"Name": "instance-type", "Values": patterns}]
    return aws.ask(
        "ec2:DescribeInstanceTypes",
        lambda: aws.pages("ec2", "describe_instance_types", "InstanceTypes", Filters=filters),
        list[Shown](),
    )
