"""What a rehearsal is told, and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from perdure.domain.checkpoints import RehearsalVerdict
from perdure.domain.values import Frozen
from worker_agent.engine.container import Container

FOLDER = "rehearsal"
"""On the job root: everything that a rehearsal writes. It is on the same file system as the checkpoint, so that a file
that is opened for writing is cloned and not copied."""
ALONE = "alone"
CGROUPS = "perdure-rehearsal"
"""The cgroup at the top of each hierarchy below which rehearsals run: the container engine's and ECS's own have limits
that are the jobs'."""


class Spec(Frozen):
    """Checkpoint `number` of the container whose bundle (config.json) and image layers these are."""

    container_id: str
    job_id: str
    predecessors: list[str] = Field(default_factory=list)
    number: int
    job_root: Path
    bundle: Path
    lower_layers: list[str]
    own_network: bool
    network_settings: dict[str, str] = Field(default_factory=dict)
    """Of the job's network namespace, below /proc/sys/net."""
    runc: str
    criu: Path
    path_first: Path
    memory_bytes: int
    """The most that its cgroup may use."""
    reserve_bytes: int
    """That stay free on the job volume."""
    restore_seconds: float
    failure_logs: Path | None = None

    @classmethod
    def of(cls, container: Container, **others: Any) -> Spec:
        """Of this container; `others` are the fields of which it knows nothing. ValidationError where one lacks."""
        return cls(
            container_id=container.id,
            job_root=container.job_root,
            bundle=container.bundle,
            lower_layers=list(container.lower_layers),
            runc=container.tools.runc,
            criu=container.tools.criu,
            path_first=container.tools.path_first,
            **others,
        )

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return self.job_root / FOLDER

    @property
    def alone(self) -> Path:
        """A file that exists once no other job's files are mounted in its namespace any more."""
        return self.folder / ALONE

    @property
    def cgroup(self) -> str:
        """Of its processes, in each hierarchy."""
        return f"/{CGROUPS}/{self.container_id}"


class Answer(Frozen):
    """`reason`: why it failed, or was not tried, for people. `processes`: how many came back."""

    verdict: RehearsalVerdict
    reason: str = ""
    processes: int = 0
