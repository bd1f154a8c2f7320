"""The settings people change while the system runs: system level (in the database), job level (environment), effective.

Job level wins over system level. A bad job-level value never stops a job: the system value is used and the caller
gets a warning to show.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, field_validator

from perdure.domain.values import parse_duration

MINIMUM_INTERVAL_SECONDS = 1.0
LONGEST_VALUE = 256
"""Characters of an environment value that are looked at; a longer one is invalid."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CheckpointConfiguration(_Settings):
    """When checkpoints are taken and what is kept."""

    enabled: bool = Field(True, description="Take checkpoints at all.")
    interval_seconds: float = Field(
        900.0,
        ge=0,
        le=31_622_400,
        description="Seconds between periodic checkpoints; 0 turns them off.",
        examples=[900],
    )
    diagnosis: bool = Field(False, description="Keep volumes and checkpoints of finished jobs.")
    keep: int = Field(2, ge=1, le=20, description="Committed checkpoints kept per job, newest first.")
    reserve_mib: int = Field(64, ge=0, description="MiB of the job volume that no checkpoint may use.")
    memory_chain: int = Field(
        8,
        ge=1,
        le=64,
        description="Where the kernel notes changed memory: checkpoints in a row that build on each other, so that all"
        " but the first hold only what changed (fewer if much changes). 1: each holds everything.",
    )
    predump: bool = Field(
        True,
        description="Where the kernel notes changed memory: copy most of it before the freeze, which is short then.",
    )
    dump_limit_seconds: float = Field(
        110.0, gt=0, le=3600, description="A dump that takes longer is ended and the job thawed."
    )
    own_network: bool = Field(
        False,
        description="Each protected job gets a network namespace of its own: the same address on every node, NAT to"
        " outside, no way in. Else it shares its host's network, as Batch's jobs do.",
    )
    refuse_io_uring: bool = Field(
        True, description="Containers get no io_uring, which cannot be saved; programs fall back to epoll."
    )

    @field_validator("interval_seconds")
    @classmethod
    def _interval(cls, value: float) -> float:
        if 0 < value < MINIMUM_INTERVAL_SECONDS:
            raise ValueError("must be 0 (off) or at least 1 second")
        return value


class JobVolumeConfiguration(_Settings):
    """The managed EBS volume of each job."""

    volume_type: str = Field("gp3", pattern="^(gp2|gp3|io1|io2)$", description="EBS volume type.")
    size_gib: int = Field(100, ge=1, le=16384, description="Size in GiB.")
    mount_path: str = Field("/mnt/perdure", pattern=r"^/[A-Za-z0-9._/-]{1,200}$", description="Where the job sees it.")
    tags: dict[str, str] = Field(default_factory=dict, description="Tags put on every volume and snapshot.")
    scratch: list[str] = Field(
        default_factory=lambda: ["/scratch", "/cromwell_root"],
        max_length=20,
        description="Host folders that jobs mount as scratch: each job gets its own, empty, on its volume instead.",
    )

    @field_validator("scratch")
    @classmethod
    def _absolute(cls, value: list[str]) -> list[str]:
        if any(not path.startswith("/") or ".." in path.split("/") or len(path) > 200 for path in value):
            raise ValueError("must be absolute paths without '..'")
        return value

    @field_validator("mount_path")
    @classmethod
    def _no_parent(cls, value: str) -> str:
        if ".." in value.split("/") or value.rstrip("/") in {"", "/proc", "/sys", "/dev", "/etc", "/usr"}:
            raise ValueError("must be a folder of its own, without '..'")
        return value


class SystemConfiguration(_Settings):
    """Everything the server is configured with, as one value."""

    checkpoint: CheckpointConfiguration = CheckpointConfiguration()
    job_volume: JobVolumeConfiguration = JobVolumeConfiguration()


class EffectiveConfiguration(_Settings):
    """What holds for one job. `interval_source` is `system` or the environment variable that won."""

    checkpoint: CheckpointConfiguration
    job_volume: JobVolumeConfiguration
    interval_source: str = "system"


MODE_NAMES = ("PERDURE_CHECKPOINT_MODE", "MMC_CHECKPOINT_MODE")
INTERVAL_NAMES = ("PERDURE_CHECKPOINT_INTERVAL", "MMC_CHECKPOINT_INTERVAL")
DIAGNOSIS_NAMES = ("PERDURE_CHECKPOINT_DIAGNOSIS", "MMC_CHECKPOINT_DIAGNOSIS")
IO_URING_NAMES = ("PERDURE_REFUSE_IO_URING",)
NETWORK_NAMES = ("PERDURE_CHECKPOINT_OWN_NETWORK",)
JOB_LEVEL_NAMES = MODE_NAMES + INTERVAL_NAMES + DIAGNOSIS_NAMES + IO_URING_NAMES + NETWORK_NAMES
"""Environment variables of a job that configure Perdure; ours before the reference product's."""

_TRUE = {"true", "1", "yes", "on", "enable", "enabled", "iterative", "auto"}
_FALSE = {"false", "0", "no", "off", "disable", "disabled", "none"}


def effective_configuration(
    system: SystemConfiguration, environment: Mapping[str, str]
) -> tuple[EffectiveConfiguration, list[str]]:
    """The job's configuration and a warning sentence for each job-level value that could not be used."""
    warnings: list[str] = []
    changes: dict[str, object] = {}
    source = "system"
    name, text = _first(environment, INTERVAL_NAMES)
    if name is not None:
        try:
            seconds = parse_duration(text)
            if 0 < seconds < MINIMUM_INTERVAL_SECONDS:
                raise ValueError(f"{text!r} is shorter than 1s")
            changes["interval_seconds"], source = seconds, name
        except ValueError as problem:
            warnings.append(f"{name} is not usable ({problem}); the system's interval is used")
    booleans = (
        ("enabled", MODE_NAMES),
        ("diagnosis", DIAGNOSIS_NAMES),
        ("refuse_io_uring", IO_URING_NAMES),
        ("own_network", NETWORK_NAMES),
    )
    for field, names in booleans:
        name, text = _first(environment, names)
        if name is None:
            continue
        word = text.strip().lower()
        if word in _TRUE or word in _FALSE:
            changes[field] = word in _TRUE
        else:
            warnings.append(f"{name} is not usable ({text[:40]!r} is not true or false); the system's value is used")
    effective = EffectiveConfiguration(
        checkpoint=system.checkpoint.model_copy(update=changes),
        job_volume=system.job_volume,
        interval_source=source,
    )
    return effective, warnings


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> tuple[str | None, str]:
    for name in names:
        if name in environment:
            return name, environment[name][:LONGEST_VALUE]
    return None, ""
