"""The containers under protection on this node: what is known of each, on disk, so that a new agent knows it too.

The marks folder of a container (<run dir>/containers/<id>) is shared with the runtime, which writes `created` or
`restored` and `started` there; `container.json` is ours. The folder exists exactly as long as the container is ours.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import structlog
from pydantic import Field, ValidationError

from perdure.contracts.node import CheckpointSettings
from perdure.contracts.protection import AttachReply, RestoreRung
from perdure.domain.budget import adapted_interval
from perdure.domain.checkpoints import Checkpoint, CheckpointKind, ContainerImage, Manifest, MountRule, Surroundings
from perdure.domain.configuration import CheckpointConfiguration, StoreConfiguration
from perdure.domain.errors import FreezerFailed
from perdure.domain.jobs import folder_name
from perdure.domain.retries import HandOver
from perdure.domain.store_costs import StoreUse
from perdure.domain.values import Frozen
from perdure.image.mounts import delete_tree
from perdure.stores.stored_checkpoints import StoredCheckpoints
from worker_agent import proc
from worker_agent.engine import Container, Identity, OverlayMount, Taking, criu_log, verify_pages
from worker_agent.node.this_node import ThisNode

T = TypeVar("T")
log = structlog.get_logger()

CONTAINER_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
"""runc's own rule for container ids, without those that begin with a dot."""
_RECORD = "container.json"
STOPPED = "stopped"
"""Mark for the runtime: processes, as the container numbers them, that must not go on at the start (JSON list)."""
RESTORING = "restoring"
"""Mark for the runtime: the files under the container are a checkpoint's; nothing may start clean on them."""


class ContainerRecord(Frozen):
    """Everything that must outlive the agent. `pid_started` (clock ticks since boot) tells the container's first
    process from a later one with the same number. Seconds by name in `phases`."""

    container_id: str
    job_id: str
    attempt: int
    bundle: Path
    runc_root: str
    rootfs: Path
    lower_layers: list[str]
    engines_overlay: OverlayMount | None = None
    """The root file system as the container engine had mounted it."""
    image: ContainerImage | None = None
    """That it runs on: a restored job goes on with the one that it began with."""
    older_image: bool = False
    """Its tag stands for another one now."""
    cgroups_path: str = ""
    mounts: list[MountRule] = Field(default_factory=list)
    given: Surroundings = Surroundings()
    """What the container engine gave this container."""
    surroundings: Surroundings = Surroundings()
    """What the job's processes know: the first container's."""
    own_network: bool = False
    network_remark: str = ""
    """What a restore changed of its connections, for people."""
    plan: AttachReply | None = None
    holds: bool = False
    """Its volume may be mounted here, and its overlay."""
    restoring: int | None = None
    rungs: list[RestoreRung] = Field(default_factory=list)
    lazily: bool = False
    """It was, or is being, restored lazily …"""
    not_lazy: str = ""
    """… or why not, although it was wished."""
    phases: dict[str, float] = Field(default_factory=dict)
    pid: int = 0
    pid_started: int = 0
    started_at: datetime | None = None
    newest: Checkpoint | None = None
    telling: dict[str, float] = Field(default_factory=dict)
    """The phases of the newest checkpoint that wrote what had changed and not everything …"""
    told_of_seconds: float = 0.0
    """… in so many seconds."""
    answered: str = ""
    """The newest request that `newest` was taken, or joined, for."""
    max_rootfs_bytes: int = 0
    preflight: str = ""
    """The verdict that was told last, and its reasons."""
    made_of: list[str] = Field(default_factory=list)
    """Programs, kinds of descriptors and mounts with which a checkpoint of it passed a rehearsal."""
    rehearsal_told: str = ""
    """What was told of the newest rehearsal."""
    final: Checkpoint | None = None
    ending: bool = False
    """We end this container ourselves: its exit is not the job's."""
    handed_over: HandOver | None = None
    lapsed: bool = False
    """It stood frozen for an instance that did not go after all, and was thawed."""


class ProtectedJob:
    """One container, and what is going on with it. Everything durable is in `record`."""

    def __init__(self, node: ThisNode, record: ContainerRecord) -> None:
        self._node = node
        self.record = record
        self._unkept = False
        """The record on disk is older than `record`."""
        self.folder = node.containers / record.container_id
        self.job_root = node.job_root(record.job_id)
        self.container = Container(
            id=record.container_id,
            bundle=record.bundle,
            runc_root=record.runc_root,
            job_root=self.job_root,
            work_dir=self.folder / "criu",
            keeper_socket=self.folder / "keeper.sock",
            rootfs=record.rootfs,
            lower_layers=tuple(record.lower_layers),
            tools=node.tools,
            cgroups_path=record.cgroups_path,
            mounts=tuple(record.mounts),
            surroundings=record.surroundings,
            own_network=record.own_network,
            engines_overlay=record.engines_overlay,
            image=record.image,
            failure_logs=node.settings.state_dir / criu_log.KEPT,
        )
        self.manifest: Manifest | None = None
        """Of the checkpoint that is being restored."""
        self._verifying: tuple[asyncio.Future[None], threading.Event] | None = None
        """Of that checkpoint's pages, while runc restores it; and what ends it early."""
        self.dump: asyncio.Task[Checkpoint] | None = None
        self.uploading: asyncio.Future[Checkpoint] | None = None
        """A checkpoint on its way into the store; the job runs on, unless it is the final one."""
        self.unread: int | None = None
        """A checkpoint in the store that was not read back yet."""
        self.taking: Taking | None = None
        """The checkpoint that is being taken, for a notice."""
        self.final: asyncio.Task[None] | None = None
        self.wish: HandOver | None = None
        """How the workflow wants it handed over, once it has said so (`wished`)."""
        self.wished = asyncio.Event()
        self.failure = ""
        """Why there is no final checkpoint."""
        self.nothing_to_save = False
        """… because the job had ended."""
        self.refusal = ""
        """Why the last checkpoint can never be taken; empty if one was."""
        self.step = ""
        """What the engine does now, for heartbeats."""
        self.examined_at = float("-inf")
        """When preflight looked last (monotonic seconds)."""
        self.beat_at: float | None = None
        """When the last checkpoint was begun, whatever became of it (monotonic seconds): the interval counts from
        there. None: not in this agent's time."""
        self.hurried = False
        """A checkpoint is wanted at once: AWS recommends leaving this instance."""
        self.rules: tuple[MountRule, ...] = tuple(record.mounts)
        self.handed_out = 0.0
        """When the runtime got its last order (monotonic seconds)."""
        self.started = asyncio.Event()
        self.start_told = asyncio.Event()
        """The report of the start is stored: nothing later may be told before it."""
        self.goes_on = False
        """A restored one: this agent has let its processes go on."""
        self.gone = asyncio.Event()
        """Its first process has ended."""
        self.released = asyncio.Event()
        """Nothing of it is mounted here (yet, or any more)."""
        if not record.holds:
            self.released.set()
        self.heard = time.monotonic()
        """When the runtime was last known to wait for us."""
        self.lock = asyncio.Lock()
        """Held by whoever ends, releases or hands over this container."""

    @property
    def epoch(self) -> int:
        """0 before there is a plan."""
        return self.record.plan.epoch if self.record.plan else 0

    @property
    def store(self) -> StoreConfiguration | None:
        """Where its checkpoints are kept, if it has no volume."""
        return self.record.plan.store if self.record.plan else None

    @property
    def stored_as(self) -> str:
        """The job whose name its checkpoints bear in the store: a resumed one goes on under its predecessor's."""
        return (self.record.plan.stored_as if self.record.plan else "") or self.record.job_id

    @property
    def scratch(self) -> Path:
        """The file that holds its job root, if it has no volume."""
        return self._node.scratch / f"{folder_name(self.record.job_id)}.xfs"

    @property
    def stored(self) -> StoredCheckpoints:
        """Its checkpoints in the store; only if it has one. Blocks: not for the event loop."""
        assert self.store is not None
        return self._node.stores.checkpoints(self.stored_as, self.store)

    def verify_pages(self, number: int) -> None:
        """Begin to read the pages of the checkpoint that is being restored."""
        stop = threading.Event()
        cold = self.record.plan is not None and self.record.plan.cold_volume
        reading = asyncio.to_thread(verify_pages, self.job_root, number, stop.is_set, cold=cold)
        self._verifying = asyncio.ensure_future(reading), stop
        self._verifying[0].add_done_callback(lambda done: done.cancelled() or done.exception())

    async def pages_sound(self, number: int) -> None:
        """Until every page of that checkpoint was found sound. ImageInvalid."""
        if self._verifying is None:  # a new agent
            self.verify_pages(number)
        assert self._verifying is not None
        await asyncio.shield(self._verifying[0])

    async def end_verifying(self) -> None:
        """Nothing of the checkpoint is read any more."""
        if self._verifying is not None:
            reading, stop = self._verifying
            stop.set()
            await asyncio.wait([reading])
            self._verifying = None

    async def in_store(self, work: Callable[[], T]) -> T:
        """Blocking work on the store, in a thread that goes on when the waiting is cancelled."""
        return await self._node.stores.run(work)

    async def store_use(self, use_id: str, at: datetime) -> StoreUse | None:
        """What was asked of its store since the last call, under that key; None if it has none."""
        if self.store is None:
            return None
        return await asyncio.to_thread(self._node.stores.use, self.stored_as, use_id, at)

    def forget_store(self) -> None:
        """What was remembered of its checkpoints in the store is needed no more."""
        self._node.stores.forget(self.stored_as)

    @property
    def settings(self) -> CheckpointConfiguration:
        """How checkpoints are taken of this job."""
        plan = self.record.plan
        return plan.configuration.checkpoint if plan and plan.configuration else CheckpointConfiguration()

    @property
    def interval_seconds(self) -> float:
        """Seconds between periodic checkpoints; 0 for none. Shorter than configured, where that is allowed and keeps a
        final one within half of a notice."""
        if not self.settings.enabled:
            return 0.0
        configured, shortest = self.settings.interval_seconds, self.settings.shortest_interval_seconds
        return adapted_interval(configured, shortest, self.record.telling, self.record.told_of_seconds)

    def learn(self, checkpoint: Checkpoint) -> None:
        """The interval follows from what had changed since the checkpoint before this one. A full one does not tell
        that, and after a final one there is no interval."""
        before = self.record.newest
        since = before.frozen_at if before is not None and before.epoch == self.epoch else self.record.started_at
        if since is not None and checkpoint.full != checkpoint.number and checkpoint.kind is not CheckpointKind.FINAL:
            self.note(telling=checkpoint.phases, told_of_seconds=(checkpoint.frozen_at - since).total_seconds())

    @property
    def runs(self) -> bool:
        """Started, not ended, and not handed over."""
        return self.started.is_set() and not self.gone.is_set() and not self.record.ending

    def follow(self, settings: CheckpointSettings) -> None:
        """Checkpoints are taken by these settings from now on, if they are newer than those known."""
        plan = self.record.plan
        if plan is not None and plan.configuration is not None and settings.number > plan.settings_number:
            configuration = plan.configuration.model_copy(update={"checkpoint": settings.checkpoint})
            changes = {"configuration": configuration, "settings_number": settings.number}
            self.note(plan=plan.model_copy(update=changes))

    def identity(self) -> Identity:
        """Whose checkpoints these are."""
        return Identity(
            job_id=self.record.job_id,
            epoch=self.epoch,
            attempt=self.record.attempt,
            instance_id=self._node.instance_id,
            zone=self._node.identity.availabilityZone,
        )

    def hold(self) -> None:
        """From now on its volume may be mounted here."""
        self.note(holds=True)
        self.released.clear()

    def note(self, **changes: Any) -> None:
        """Change the record and keep it on disk (a tmpfs: no wait). OSError where that is full, before the job runs: it
        is not protected then. Once it runs, only another agent would miss what is not kept; this one goes on."""
        record = self.record.model_copy(update=changes)
        text = record.model_dump_json()  # first: what cannot be written down must not spoil all that comes after it
        self.record = record
        try:
            self._keep(text)
        except OSError as problem:
            if record.started_at is None:
                raise
            if not self._unkept:
                log.error("a job's record could not be kept; it is tried again", job_id=record.job_id, exc_info=problem)
            self._unkept = True
        else:
            self._unkept = False

    def _keep(self, text: str) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self.folder / (_RECORD + ".new")
        fresh.write_text(text)
        fresh.replace(self.folder / _RECORD)

    @property
    def network_file(self) -> Path:
        """Where its network namespace is kept, if Perdure makes it one."""
        return self._node.settings.run_dir / "networks" / self.record.container_id

    def knows(self, surroundings: Surroundings) -> None:
        """From now on its processes know these surroundings, and every manifest says so."""
        self.note(surroundings=surroundings)
        self.container = replace(self.container, surroundings=surroundings)

    def with_mounts(self, rules: tuple[MountRule, ...]) -> Container:
        """The container with the rules of its mounts, which go into every manifest."""
        self.note(mounts=list(rules))
        return replace(self.container, mounts=rules)

    def on_layers(self, lower: list[str], image: ContainerImage | None, *, older: bool) -> None:
        """It runs on these layers of that image, which may be `older` than what its name stands for now."""
        self.note(lower_layers=lower, image=image, older_image=older)
        self.container = replace(self.container, lower_layers=tuple(lower), image=image)

    def mark_restoring(self, number: int | None) -> None:
        """From now on (None: no longer) the files under the container are those of a checkpoint."""
        self.note(restoring=number)
        if number is None:
            (self.folder / RESTORING).unlink(missing_ok=True)
        else:
            (self.folder / RESTORING).touch(mode=0o600)

    def mark_stopped(self, pids: list[int]) -> None:
        """The runtime must not continue these processes when it starts the restored container."""
        (self.folder / STOPPED).write_text(json.dumps(pids))

    def has_init(self, pid: int) -> bool:
        """The container's first process exists as `pid`. False if it is gone already."""
        try:
            self.container = self.container.with_init(pid)
            self.note(pid=pid, pid_started=start_ticks(pid))
        except (FreezerFailed, OSError):
            return False
        return True

    def mark(self, name: str) -> dict[str, Any] | None:
        """What the runtime wrote as `created`, `restored` or `started`."""
        try:
            read: dict[str, Any] = json.loads((self.folder / name).read_text())
            return read
        except (OSError, ValueError):
            return None


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot. OSError if it is gone."""
    return int(proc.stat(pid)[19])


class ProtectedJobs:
    """The registry of this node's protected containers, by container id."""

    def __init__(self, node: ThisNode) -> None:
        self._node = node
        self._jobs: dict[str, ProtectedJob] = {}

    def __iter__(self) -> Iterator[ProtectedJob]:
        return iter(list(self._jobs.values()))

    def get(self, container_id: str) -> ProtectedJob | None:
        """The container, if it is ours."""
        return self._jobs.get(container_id)

    def of_epoch(self, job_id: str, epoch: int) -> ProtectedJob | None:
        """The container that was accepted as that epoch of the job."""
        return next((job for job in self if job.record.job_id == job_id and job.epoch == epoch), None)

    def add(self, record: ContainerRecord) -> ProtectedJob:
        """Take a container under protection, durably."""
        job = ProtectedJob(self._node, record)
        job.note()
        self._jobs[record.container_id] = job
        return job

    def forget(self, job: ProtectedJob) -> None:
        """The container is no longer ours. Blocks shortly."""
        delete_tree(job.folder)
        self._jobs.pop(job.record.container_id, None)

    def load(self) -> list[ProtectedJob]:
        """What an earlier agent of this node had under protection. Blocks."""
        self._node.containers.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in sorted(self._node.containers.iterdir()):
            if folder.name in self._jobs or not CONTAINER_ID.fullmatch(folder.name):
                continue
            try:
                record = ContainerRecord.model_validate_json((folder / _RECORD).read_text())
            except (OSError, ValidationError) as problem:
                log.error("a container's record cannot be read", container=folder.name, reason=str(problem)[:300])
                continue
            self._jobs[record.container_id] = ProtectedJob(self._node, record)
        return list(self._jobs.values())
