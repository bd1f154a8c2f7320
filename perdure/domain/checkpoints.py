"""Checkpoints: the manifest that makes one real, its summary for people, and which ones may be dropped."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from perdure.domain.values import Frozen

MANIFEST_VERSION = 2
"""Version 1 had no page indexes; it is still read."""


class CheckpointKind(StrEnum):
    """`periodic` on the rhythm, `requested` by a person, `final` on a notice (the job is not resumed)."""

    PERIODIC = "periodic"
    REQUESTED = "requested"
    FINAL = "final"


class ImageFile(Frozen):
    """One file of the memory image: path relative to the checkpoint folder, bytes, BLAKE3 (hex).

    `index`: path of its page index, if it has one. `blake3` is then the index's, which has a checksum of each page."""

    path: str
    size: int
    blake3: str
    index: str = ""


class MountRule(Frozen):
    """What happens to one mount of the container: `captured` (lives on the job root), `shared` (outside promise 1),
    `readonly`, or `fresh` (made anew by the runtime: proc, sysfs, …).

    `source`: the folder on the node; of a captured one on the job root, and `replaces` is the node's folder in whose
    place it comes (`engines`: a volume that the container engine keeps). `kind` and `device`: the file system of a
    shared or read-only one.
    """

    destination: str
    rule: str
    source: str = ""
    replaces: str = ""
    engines: bool = False
    kind: str = ""
    device: str = ""


class GpuDevice(Frozen):
    """A GPU that a job used: nvidia-smi's UUID, model and driver version, and the device memory in use (bytes)."""

    uuid: str
    name: str
    driver: str
    used_bytes: int


class Surroundings(Frozen):
    """What the job's processes take for granted of where they run, since they first read it. It is kept true for them
    on every later node."""

    host_name: str = ""
    paths: dict[str, str] = Field(default_factory=dict)
    """Where they ask for credentials and task metadata: paths at ECS's link-local address, by variable."""
    address: str = ""
    """Their address, if they have a network namespace that Perdure made; empty in any other network."""
    hosts: list[str] = Field(default_factory=list)
    """Lines of their /etc/hosts, but for the one of their own name."""


class ContainerImage(Frozen):
    """The image that a container runs on: as it was named, its id, its layers (digests, from the bottom), and what it
    can be pulled by (`name@sha256:…`)."""

    name: str = ""
    id: str = ""
    layers: list[str] = Field(default_factory=list)
    digests: list[str] = Field(default_factory=list)


class ThreadSettings(Frozen):
    """What a thread has set of its own and CRIU does not keep. An empty value: as every thread has it."""

    cpus: list[int] = Field(default_factory=list)
    """Those on which it runs."""
    io_priority: int = 0
    """Class and level in one number (ioprio_set(2))."""
    timer_slack: int = 0
    """Nanoseconds."""
    core_filter: int | None = None
    """Of its process, if it is the first thread (core(5))."""


class StdioOffsets(Frozen):
    """Bytes of the job's captured output that belong to a checkpoint; a restore cuts the logs back to them."""

    stdout: int = 0
    stderr: int = 0


class ManifestHead(Frozen):
    """A manifest without its list of files, which may have a million entries: all that is needed to name a checkpoint
    or to look at it.

    `images` covers every byte CRIU wrote. Sizes in bytes, times UTC, durations in seconds.
    """

    version: int = MANIFEST_VERSION
    job_id: str
    number: int
    kind: CheckpointKind
    epoch: int
    attempt: int
    instance_id: str
    zone: str = ""
    frozen_at: datetime
    committed_at: datetime
    container_id: str
    criu_version: str = ""
    runc_version: str = ""
    kernel: str = ""
    cpu_features: str = ""
    images: list[ImageFile]
    files_digest: str = ""
    """BLAKE3 over the inventory of the cloned files (names, types, sizes, modes), so that a lost clone is noticed."""
    stdio: StdioOffsets = StdioOffsets()
    mounts: list[MountRule] = Field(default_factory=list)
    lower_layers: list[str] = Field(default_factory=list)
    image: ContainerImage | None = None
    """None where the container's image was not known: a container without Docker."""
    processes: list[str] = Field(default_factory=list)
    phases: dict[str, float] = Field(default_factory=dict)
    addresses: list[str] = Field(default_factory=list)
    """Addresses other than loopback that sockets of the job had as their own."""
    surroundings: Surroundings = Surroundings()
    devices: dict[str, int] = Field(default_factory=dict)
    """The device number (0:N) of each tree as the job sees it (`layer`, `data`, `volumes`): a restore keeps it."""
    lent_names: list[str] = Field(default_factory=list)
    """Names that open files had lost and were given back for the dump; they go again once it is restored."""
    gpus: list[GpuDevice] = Field(default_factory=list)
    """The cards whose memory is in the image."""
    stopped: list[int] = Field(default_factory=list)
    """Processes, as the container numbers them, that somebody had stopped (SIGSTOP): they stay so after a restore."""

    full: int = 0
    """The number of the full checkpoint with which, and with those after it, this one may share pages; its own number
    if it is the full one; 0 where nobody knows."""
    after_full: int = 0
    """How many lie between: 0 for the full one itself."""
    written_bytes: int | None = None
    """Bytes of the memory image that were written for this checkpoint; the rest are shared or zeros. None: unknown."""

    @property
    def image_bytes(self) -> int:
        """Bytes of this checkpoint's memory image, which is complete; other checkpoints may share some of them."""
        return sum(image.size for image in self.images)

    def summary(self) -> Checkpoint:
        """What people and the workflow need of it."""
        return Checkpoint(
            number=self.number,
            kind=self.kind,
            epoch=self.epoch,
            frozen_at=self.frozen_at,
            committed_at=self.committed_at,
            image_bytes=self.image_bytes,
            written_bytes=self.written_bytes,
            holds_bytes=self.image_bytes,
            shares_bytes=None if self.written_bytes is None else max(0, self.image_bytes - self.written_bytes),
            full=self.full,
            phases=self.phases,
            cpu_features=self.cpu_features,
        )


class Manifest(ManifestHead):
    """The last file of a checkpoint; without it the checkpoint does not exist (promise 3).

    `inodes` maps each cloned file or folder, as `layer/<path>` or `data/<path>`, to its inode number at the freeze, so
    that a roll-back can put content back into the same inode (SQLite compares them).
    """

    inodes: dict[str, int] = Field(default_factory=dict)
    threads: dict[int, ThreadSettings] = Field(default_factory=dict)
    """By thread, as the container numbers them."""
    last_pid: int = 0
    """The container's number of its newest process, which may have ended; 0 where it was not known."""
    broken: list[int] = Field(default_factory=list)
    """Inodes of TCP sockets whose connection had broken without the job having heard of it."""


class Checkpoint(Frozen):
    """A committed, verified, restorable point of one job."""

    number: int
    kind: CheckpointKind
    epoch: int
    frozen_at: datetime
    committed_at: datetime
    image_bytes: int = 0
    written_bytes: int | None = None
    """Bytes that were written for it. None: unknown."""
    holds_bytes: int | None = None
    """Bytes that a restore lays down: its memory image, and, out of a store, the job's files. None: unknown."""
    shares_bytes: int | None = None
    """What it uses of bytes that were there already (on a volume, zeros too). None: unknown."""
    full: int = 0
    """As the manifest's."""
    phases: dict[str, float] = Field(default_factory=dict)
    """Seconds by engine step, in order, as the node measured them."""
    cpu_features: str = ""
    """Instruction sets that its processes may rely on, as words; a node that lacks one cannot restore it."""


class RehearsalVerdict(StrEnum):
    """What became of restoring a checkpoint beside its running job."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_TRIED = "not tried"


class Rehearsal(Frozen):
    """The newest rehearsal of a job: of checkpoint `number` of `epoch`, ended at `at` (UTC) after `seconds`.

    `reason`: the cause of a failure, or why none was tried; for people.
    """

    number: int
    epoch: int
    at: datetime
    verdict: RehearsalVerdict
    reason: str = ""
    seconds: float = 0.0


def droppable(numbers: list[int], keep: int, full: Mapping[int, int] | None = None) -> list[int]:
    """The checkpoint numbers that may go when the newest `keep` (at least 1) stay; oldest first.

    `full`: the full checkpoint of each, as manifests name it. If several stay and share pages with one another, the
    newest one that shares none with them stays too: one bad block may damage all the others.
    """
    ordered, full = sorted(numbers), full or {}
    stay = ordered[max(0, len(ordered) - max(1, keep)) :]
    older = ordered[: len(ordered) - len(stay)]
    families = {full.get(number, 0) or number for number in stay}
    if len(families) == 1 and len(stay) > 1:
        apart = [number for number in older if number in full and (full[number] or number) not in families]
        older = [number for number in older if number not in apart[-1:]]
    return older
