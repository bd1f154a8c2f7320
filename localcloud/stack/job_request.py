"""A job as the command line takes it, and as RegisterJobDefinition wants it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from localcloud.aws.cloud_config import ACCOUNT
from localcloud.nodes.images.catalogue import MACHINE
from perdure.domain.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from mypy_boto3_batch.type_defs import ContainerPropertiesTypeDef, EvaluateOnExitTypeDef, RetryStrategyTypeDef


@dataclass(frozen=True)
class JobRequest:
    """A job as `submit` takes it. `mounts`: (host path, container path). Without an `image`: the machine's own root."""

    command: list[str]
    name: str = "job"
    vcpus: int = 1
    memory_mib: int = 512
    queue: str | None = None
    attempts: int = 10
    host_rules: bool = False
    """Its retry rules know the host's end alone, as Nextflow's do."""
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: list[tuple[str, str]] = field(default_factory=list)
    job_role: str = ""
    """Name of the role whose credentials the job gets from its task; without one it gets keys in its environment."""
    image: str = MACHINE


def container_properties(job: JobRequest) -> ContainerPropertiesTypeDef:
    """The job as RegisterJobDefinition takes it; its mounts are host volumes."""
    names = [f"mount{number}" for number in range(len(job.mounts))]
    return {
        "image": job.image,
        "command": job.command,
        "resourceRequirements": [
            {"type": "VCPU", "value": str(job.vcpus)},
            {"type": "MEMORY", "value": str(job.memory_mib)},
        ],
        "environment": [{"name": name, "value": value} for name, value in job.environment.items()],
        "volumes": [
            {"name": name, "host": {"sourcePath": source}} for name, (source, _) in zip(names, job.mounts, strict=True)
        ],
        "mountPoints": [
            {"sourceVolume": name, "containerPath": destination, "readOnly": False}
            for name, (_, destination) in zip(names, job.mounts, strict=True)
        ],
        **({"jobRoleArn": f"arn:aws:iam::{ACCOUNT}:role/{job.job_role}"} if job.job_role else {}),
    }


def retry_strategy(attempts: int, *, host_rules: bool = False) -> RetryStrategyTypeDef:
    """Reclaims and containers that Perdure ended are tried again; nothing else is. `host_rules`: reclaims alone.

    Rules are tried in order, the conditions of one are ANDed; out of memory is 137 too, so it comes first.
    """
    ended_by_us: EvaluateOnExitTypeDef = {"onExitCode": "137", "action": "RETRY"}
    return {
        "attempts": attempts,
        "evaluateOnExit": [
            {"onReason": "OutOfMemory*", "action": "EXIT"},
            {"onStatusReason": "Host EC2*", "action": "RETRY"},
            *([] if host_rules else [ended_by_us]),
            {"onReason": "*", "action": "EXIT"},
        ],
    }


def definition_name(job_name: str) -> str:
    """A job definition's name for the job: letters, digits, '-' and '_', 1 to 128 characters."""
    return "local-" + re.sub(r"[^A-Za-z0-9_-]", "-", job_name)[:100]


def parse_mount(text: str) -> tuple[str, str]:
    """`HOST:CONTAINER`, both absolute. Raises ConfigurationInvalid."""
    source, colon, destination = text.partition(":")
    if not colon or not all(PurePosixPath(path).is_absolute() for path in (source, destination)):
        raise ConfigurationInvalid(f"--mount {text!r} is not HOST:CONTAINER with two absolute paths")
    return source, destination


def parse_variable(text: str) -> tuple[str, str]:
    """`NAME=VALUE`; the value may be anything. Raises ConfigurationInvalid."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigurationInvalid(f"--env {text[:60]!r} is not NAME=VALUE")
    return name, value
