"""The cloud's configuration file: what the stack is, and how slow and unkind its AWS is to be. All times in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

ACCOUNT = "123456789012"
"""moto's account."""

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "perdure", "AWS_SECRET_ACCESS_KEY": "perdure"}
"""Nothing checks them; they are what jobs and nodes get when they bring none."""


class InstanceShape(NamedTuple):
    """What an instance type offers."""

    name: str
    vcpus: int
    memory_mib: int


SHAPES = [
    InstanceShape("c5.large", 2, 4096),
    InstanceShape("c5.xlarge", 4, 8192),
    InstanceShape("c5.2xlarge", 8, 16384),
    InstanceShape("c5.4xlarge", 16, 32768),
    InstanceShape("c5.9xlarge", 36, 73728),
    InstanceShape("c5.18xlarge", 72, 147456),
]
"""Types that can be launched, smallest first (EC2's C5 page). Nothing is measured: they say what may be promised."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Timing(_Settings):
    """Delays. EC2's are shortened so that a demo can be watched; the order of things is AWS's."""

    volume_create: float = 0.2
    attach: float = 0.2
    detach: float = 0.3
    snapshot: float = 0.5
    device_poll: float = 0.1
    """Between two looks whether a volume that is being detached is still mounted."""
    dead_host_release: float = 1.0
    """From an instance's end until its volumes are `available`. AWS can take minutes."""
    late_host_notice: float = 2.0
    """From a host's death until Batch knows of it."""
    terminate: float = 0.5
    """From `shutting-down` to `terminated`."""
    shortest_notice: float = 2.0
    """A node on which nothing is left to save ends early, but not before this."""
    launch_retry: float = 2.0
    container_start_timeout: float = 180.0
    """ECS_CONTAINER_START_TIMEOUT."""
    container_stop_timeout: float = 30.0
    """ECS_CONTAINER_STOP_TIMEOUT: from SIGTERM to SIGKILL."""
    credential_life: float = 6 * 3600.0
    """How long credentials of a job role are good for."""
    shortest_attempt: float = 60.0
    """Smallest attemptDurationSeconds that SubmitJob takes."""


class CloudConfig(_Settings):
    """One stack's cloud. `folder`/pool must be a mounted file system that can reflink (XFS)."""

    stack: str
    folder: Path
    host: str = "127.0.0.1"
    port: int = 0
    region: str = "us-east-1"
    zones: list[str] = Field(default_factory=lambda: ["us-east-1a", "us-east-1b"], min_length=1)
    nodes_per_zone: int = Field(1, ge=0)
    instance_type: str = "c5.xlarge"
    max_vcpus: int = 256
    queues: list[str] = Field(default_factory=lambda: ["default"], min_length=1)
    launcher: str = "localcloud.nodes.launcher:make_launcher"
    launcher_options: dict[str, object] = Field(default_factory=dict)
    ready_file: Path | None = None
    place_on_noticed: bool = False
    """Let Batch place new containers on a node that has had a notice, as AWS may: the agent must hold them."""
    timing: Timing = Timing()

    @property
    def pool(self) -> Path:
        """Where volumes live."""
        return self.folder / "pool"

    @property
    def shape(self) -> InstanceShape:
        """The usual node."""
        return next(shape for shape in SHAPES if shape.name == self.instance_type)


def smallest_shape(vcpus: float, memory_mib: int, at_least: InstanceShape) -> InstanceShape | None:
    """The smallest shape, not below `at_least`, that holds such a job; None when there is none."""
    for shape in SHAPES[SHAPES.index(at_least) :]:
        if shape.vcpus >= vcpus and shape.memory_mib >= memory_mib:
            return shape
    return None
