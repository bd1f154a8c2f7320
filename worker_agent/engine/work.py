"""One checkpoint while it is taken: what its steps hand to each other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

from perdure.domain.checkpoints import (
    CheckpointKind,
    GpuDevice,
    ImageFile,
    Manifest,
    ManifestHead,
    StdioOffsets,
    ThreadSettings,
)
from perdure.domain.errors import CheckpointFailed
from perdure.image.store import DirectoryStore
from worker_agent.engine.closed_senders import Sockets
from worker_agent.engine.container import Container, Identity
from worker_agent.engine.lost_names import Nameless
from worker_agent.engine.page_sink import Assembled, PageSink
from worker_agent.engine.threads import urgently
from worker_agent.engine.waiting_clients import Listening
from worker_agent.freezer import Freezer

P = ParamSpec("P")
T = TypeVar("T")

SLACK = 16 << 20
"""Bytes of a dump beyond the processes' memory: tables, small files, the cloned trees' own metadata."""
NO_LIMIT = 3600.0
"""Seconds for programs that run inside the checkpoint's own, shorter limit."""


@dataclass
class Work:
    """One checkpoint while it is taken: what the steps hand to each other."""

    container: Container
    freezer: Freezer
    identity: Identity
    kind: CheckpointKind
    keep: int
    reserve_bytes: int
    store: DirectoryStore
    full_every: int = 8
    """Of so many checkpoints in a row, the first shares no pages with those before it."""
    predump: bool = False
    commit_by: float | None = None
    """Monotonic seconds; the instance goes soon after."""
    hurry: threading.Event = field(default_factory=threading.Event)
    """Set by a notice: what is not needed for a checkpoint makes room."""
    known: list[ManifestHead] = field(default_factory=list)
    """The newest checkpoints on the job root, where the time may not suffice: they tell its pace."""
    base: ManifestHead | None = None
    """The checkpoint with which this one may share pages; None for a full one."""
    starting: asyncio.Task[PageSink | None] | None = None
    """What will be `sink`."""
    sink: PageSink | None = None
    """What takes the job's pages; None where they are written as CRIU writes them."""
    assembled: Assembled | None = None
    looked_at: float = 0.0
    """When the newest look at the job's processes began (monotonic seconds), and how long it took."""
    look_seconds: float = 0.0
    needed: int = 0
    """Bytes that a dump may take, by the newest look."""
    folder: Path | None = None
    frozen_at: datetime | None = None
    frozen_since: float = 0.0
    users_pause: bool = False
    """It stood frozen before we came (`docker pause`)."""
    processes: list[str] = field(default_factory=list)
    stopped: dict[int, list[int]] = field(default_factory=dict)
    stood_stopped: list[int] = field(default_factory=list)
    """The same processes, as the container numbers them."""
    threads: dict[int, ThreadSettings] = field(default_factory=dict)
    last_pid: int = 0
    broken: list[int] = field(default_factory=list)
    """Connections of whose break the job had not heard then (connections.breaks_unheard)."""
    listening: Listening = field(default_factory=dict)
    """Sockets at which a client may wait, as the look before the freeze saw them."""
    sockets: Sockets = field(default_factory=dict)
    """All sockets, as it saw them."""
    nameless: list[Nameless] = field(default_factory=list)
    """Files that were open and had lost their names then."""
    addresses: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    """Lines of its /etc/hosts."""
    watched: list[str] = field(default_factory=list)
    stdio: StdioOffsets = field(default_factory=StdioOffsets)
    gpus: list[GpuDevice] = field(default_factory=list)
    gpu_users: list[int] = field(default_factory=list)
    """Processes whose GPU was taken and not given back yet."""
    inodes: dict[str, int] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    images: list[ImageFile] = field(default_factory=list)
    files_digest: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    manifest: Manifest | None = None

    async def in_thread(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Blocking work of a step. The last checkpoint does not wait behind what other jobs do."""
        way = urgently if self.kind is CheckpointKind.FINAL else asyncio.to_thread
        return await way(work, *arguments, **named)

    @property
    def path(self) -> Path:
        if self.folder is None:
            raise CheckpointFailed("the checkpoint has no folder yet", "room")
        return self.folder
