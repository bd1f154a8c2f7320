"""Does the launch template put Perdure onto the instances, and leave it working?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from perdure.account.environments import Environment
from perdure.account.findings import Finding, Severity
from perdure.account.picture import QueuePicture
from perdure.domain.values import parse_duration

_ASSIGNED = re.compile(r"\b(ECS_[A-Z_]+)=[\"']?([^\s\"'\\]+)")
_WANTED_START, _WANTED_CREATE = 900.0, 840.0
"""Seconds. perdure-install sets 16 and 15 minutes (docs/install.md)."""
_STATE_DIR = re.compile(r"\bPERDURE_STATE_DIR=[\"']?(/[^\s\"']*)")
_MOUNT = re.compile(r"\bmount\s+(?:-\S+\s+(?:\w+\s+)?)*(/dev/\S+|LABEL=\S+)\s+(/\S+)")
_INSTANCE_STORE = re.compile(r"/dev/(?:nvme[1-9]n1\b|md\d|disk/by-id/nvme-Amazon_EC2_NVMe_Instance_Storage)")
_FEW_GIB = 30


def _ours(picture: QueuePicture) -> list[Environment]:
    """Those in which an agent could be."""
    return [one for one in picture.environments if one.resources.get("type") in {"SPOT", "EC2"}]


def _mend(one: Environment) -> str:
    if not one.template_name:
        return (
            "aws ec2 create-launch-template --launch-template-name perdure --launch-template-data "
            '"{\\"UserData\\": \\"$(base64 -w0 user-data.txt)\\"}" && aws batch update-compute-environment '
            f"--compute-environment {one.name} "
            "--compute-resources 'launchTemplate={launchTemplateName=perdure,version=$Latest}'"
        )
    by = "id" if one.template_name.startswith("lt-") else "name"
    return (
        f"aws ec2 create-launch-template-version --launch-template-{by} {one.template_name} "
        f"--source-version {one.template_version} --launch-template-data "
        '"{\\"UserData\\": \\"$(base64 -w0 user-data.txt)\\"}"'
    )


def installer(picture: QueuePicture) -> Iterator[Finding]:
    """User data that installs Perdure, in the form that Batch takes, in the version that is in use."""
    for one in _ours(picture):
        severity = Severity.WARNING if one.images else Severity.ERROR
        unseen = " Its own image may hold Perdure, which cannot be seen from here." if one.images else ""
        if not one.template_name:
            what = f"It has no launch template.{unseen}"
            yield Finding(severity, "launch-template", one.name, what, "Nothing installs the agent.", _mend(one))
        elif one.template is None:
            if "NotFound" in picture.refused.get("ec2:DescribeLaunchTemplateVersions", ""):
                what, why = (
                    f"{one.template_name} is gone, or its version is.",
                    "Batch can start no instance without it.",
                )
                yield Finding(Severity.ERROR, "launch-template", one.name, what, why, "name one that is there")
            continue
        elif "perdure" not in one.user_data:
            what = f"Version {one.template_version} of {one.template_name} does not install Perdure.{unseen}"
            yield Finding(severity, "launch-template", one.name, what, "Nothing installs the agent.", _mend(one))
        elif not one.user_data_is_multipart:
            what = f"The user data of {one.template_name} is no MIME multipart file."
            why = "Batch adds a part of its own to it, and refuses or ignores any other form."
            yield Finding(Severity.ERROR, "launch-template", one.name, what, why, _mend(one))
        if one.template_name and one.template_version < one.newest_version:
            what = f"It uses version {one.template_version} of {one.template_name}; the newest is {one.newest_version}."
            why = "A change that you made may not be in force."
            mend = (
                f"aws batch update-compute-environment --compute-environment {one.name} --compute-resources "
                f"'launchTemplate={{launchTemplateName={one.template_name},version={one.newest_version}}}'"
            )
            yield Finding(Severity.WARNING, "launch-template", one.name, what, why, mend)


def metadata(picture: QueuePicture) -> Iterator[Finding]:
    """The metadata service, by which notices come."""
    for one in _ours(picture):
        if ((one.template or {}).get("MetadataOptions") or {}).get("HttpEndpoint") == "disabled":
            what = f"{one.template_name} switches the instance metadata service off."
            mend = (
                f"aws ec2 create-launch-template-version --launch-template-name {one.template_name} "
                f"--source-version {one.template_version} "
                '--launch-template-data \'{"MetadataOptions": {"HttpEndpoint": "enabled", "HttpTokens": "required"}}\''
            )
            yield Finding(Severity.ERROR, "metadata", one.name, what, "No agent can hear a notice.", mend)


def timeouts(picture: QueuePicture) -> Iterator[Finding]:
    """ECS's patience with a container that starts, and its own draining."""
    for one in _ours(picture):
        found = dict(_ASSIGNED.findall(one.user_data))
        for name, wanted in (
            ("ECS_CONTAINER_START_TIMEOUT", _WANTED_START),
            ("ECS_CONTAINER_CREATE_TIMEOUT", _WANTED_CREATE),
        ):
            if name in found and _seconds(found[name]) < wanted:
                what = f"The user data sets {name}={found[name]}."
                why = "A container is restored while it starts; a restore that takes longer fails the attempt."
                mend = f"take {name} out of the user data: perdure-install sets it"
                yield Finding(Severity.WARNING, "time-outs", one.name, what, why, mend)
        if found.get("ECS_ENABLE_SPOT_INSTANCE_DRAINING", "").lower() == "true":
            what = "The user data sets ECS_ENABLE_SPOT_INSTANCE_DRAINING=true."
            why = "ECS then stops containers on a notice, while they are being saved."
            mend = "take ECS_ENABLE_SPOT_INSTANCE_DRAINING out of the user data"
            yield Finding(Severity.WARNING, "time-outs", one.name, what, why, mend)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        return 0.0


def disks(picture: QueuePicture) -> Iterator[Finding]:
    """Where checkpoints lie when a job has no volume of its own: never on a disk that goes with the instance."""
    for one in _ours(picture):
        stores = [
            target.rstrip("/") for device, target in _MOUNT.findall(one.user_data) if _INSTANCE_STORE.match(device)
        ]
        for path in _STATE_DIR.findall(one.user_data):
            if any(path == place or path.startswith(place + "/") for place in stores):
                what = f"PERDURE_STATE_DIR is {path}, which is on an instance store."
                why = "It is gone with the instance, and with it every checkpoint of a job without a volume of its own."
                mend = "take PERDURE_STATE_DIR out of the user data, or name a directory on an EBS volume or on EFS"
                yield Finding(Severity.ERROR, "checkpoint-place", one.name, what, why, mend)
        for mapping in (one.template or {}).get("BlockDeviceMappings", []):
            size = (mapping.get("Ebs") or {}).get("VolumeSize")
            if mapping.get("DeviceName") in {"/dev/xvda", "/dev/sda1"} and size is not None and size < _FEW_GIB:
                what = f"The root volume has {size} GiB."
                why = "Images, layers and the checkpoints of jobs without a volume share it."
                mend = f"VolumeSize of {mapping['DeviceName']} in {one.template_name}: {_FEW_GIB} or more"
                yield Finding(Severity.WARNING, "checkpoint-place", one.name, what, why, mend)
