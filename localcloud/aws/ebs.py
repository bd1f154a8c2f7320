"""The disks behind EBS: real bytes in sparse files on a file system that can reflink.

A volume is `volumes/<id>.img`, a snapshot `snapshots/<id>.img`. Attaching makes a loop device (direct I/O where the
file system can, so that what a guest flushed is what the file holds) and, in the node's own /dev/disk/by-id, the link
that udev makes on Amazon Linux 2023. Snapshots and volumes made from them are reflink copies: an instant, as crash-
consistent as EBS's. A volume that is to be slow until its blocks are fetched is opened through FUSE (lazy_mount.py).
A deleted volume's file is kept in `deleted/` until the stack goes down.

Power loss: killing processes lets the kernel write everything back and unmount cleanly, which no power loss does. So
`cut_power` shuts the mounted file systems down without flushing their log while the node is frozen, before it is
killed: only what was synced survives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import struct
from pathlib import Path

from localcloud.aws.block_diff import moved_bytes
from localcloud.aws.lazy_mount import Laziness, LazyMount
from localcloud.linux import MountEntry, loop_devices_below, mount_table, run
from perdure.domain.errors import CommandFailed, VolumeFailed
from perdure.waiting import until

log = logging.getLogger(__name__)

GIB = 1024**3
FICLONE = 0x40049409  # linux/fs.h
FS_IOC_SHUTDOWN = 0x8004587D  # linux/fs.h; XFS's XFS_IOC_GOINGDOWN, ext4 has it too
NO_LOG_FLUSH = 2
RELEASE_SECONDS = 60.0
"""How long a loop device may take to let go of its file after the last user is gone."""
LINGER_SECONDS = 1.0
"""The same where the volume goes on in any case."""
LINK_FOLDER = "dev/disk/by-id"


def link_name(volume_id: str) -> str:
    """udev's name for an EBS volume on a Nitro instance."""
    return f"nvme-Amazon_Elastic_Block_Store_{volume_id.replace('-', '')}"


class Disks:
    """The pool's volumes and snapshots, and the loop devices of attached volumes.

    Methods block for milliseconds to seconds and are called without the cloud's lock, never twice at once for one
    volume. They raise VolumeFailed, CommandFailed or OSError.
    """

    def __init__(self, pool: Path) -> None:
        self._volumes, self._snapshots, self._deleted = pool / "volumes", pool / "snapshots", pool / "deleted"
        for folder in (self._volumes, self._snapshots, self._deleted):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lazy = LazyMount(self._volumes, pool / "lazy")
        self._devices: dict[str, str] = {}
        self._opened: dict[str, Path] = {}
        self.second_writers: list[str] = []
        """Volumes that were attached while an earlier holder could still have written: none, it must be."""

    def backing_file(self, volume_id: str) -> Path | None:
        """Where the volume's bytes lie, deleted or not; None when there never was such a volume."""
        candidates = (folder / f"{volume_id}.img" for folder in (self._volumes, self._deleted))
        return next((path for path in candidates if path.exists()), None)

    def create(
        self, volume_id: str, size_gib: int, snapshot_id: str | None = None, laziness: Laziness | None = None
    ) -> None:
        """A blank volume, or one that begins as the snapshot; of the latter, each block is slow at its first touch."""
        target = self._volumes / f"{volume_id}.img"
        if snapshot_id is not None:
            clone(self._snapshots / f"{snapshot_id}.img", target)
        with target.open("ab") as file:
            file.truncate(size_gib * GIB)
        if snapshot_id is not None and laziness is not None:
            self._lazy.make_lazy(target.name, laziness)

    def grow(self, volume_id: str, size_gib: int) -> None:
        """Make the volume larger, its loop device too when it is attached."""
        os.truncate(self._volumes / f"{volume_id}.img", size_gib * GIB)
        if device := self._devices.get(volume_id):
            self._opened[volume_id].stat()  # through FUSE, this is what tells the kernel the size
            run(["losetup", "--set-capacity", device])

    def snapshot(self, volume_id: str, snapshot_id: str, parent: str | None = None) -> tuple[int, int]:
        """Keep the volume as it is at this instant. Returns the bytes of blocks that changed since the snapshot
        `parent` (None: all that hold data), and of all that hold data."""
        made = self._snapshots / f"{snapshot_id}.img"
        clone(self._volumes / f"{volume_id}.img", made)
        before = self._snapshots / f"{parent}.img" if parent else None
        full = moved_bytes(made, None)
        return (moved_bytes(made, before) if before is not None and before.exists() else full), full

    def initialization(self, volume_id: str) -> dict[str, int] | None:
        """Of a volume that was made slow: how many blocks there were to fetch, and how many are left."""
        return self._lazy.status(f"{volume_id}.img")

    def copy_snapshot(self, source_id: str, snapshot_id: str) -> None:
        """A snapshot of a snapshot."""
        clone(self._snapshots / f"{source_id}.img", self._snapshots / f"{snapshot_id}.img")

    def delete_volume(self, volume_id: str) -> None:
        """Put the file aside."""
        with contextlib.suppress(FileNotFoundError):  # an instance's root volume has no file
            os.rename(self._volumes / f"{volume_id}.img", self._deleted / f"{volume_id}.img")
        self._lazy.forget(f"{volume_id}.img")

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove the file."""
        (self._snapshots / f"{snapshot_id}.img").unlink(missing_ok=True)

    def device(self, volume_id: str) -> str | None:
        """The loop device of an attached volume."""
        return self._devices.get(volume_id)

    def attach(self, volume_id: str, init_pid: int) -> str:
        """Make the loop device and the link in the node's file system. Returns the device."""
        if self._has_writer(volume_id):
            self.second_writers.append(volume_id)
            log.error("%s is attached although an earlier holder still has it", volume_id)
        opened = self._opened[volume_id] = self._lazy.path(f"{volume_id}.img")
        file = str(opened)
        # A file that shares blocks with a snapshot takes direct I/O in 4 KiB only, and the kernel then gives its loop
        # device sectors of that size: a file system made before the snapshot, on sectors of 512, would not mount again
        # (`Function not implemented`; tried). So the size is 4 KiB from the start.
        losetup = ["losetup", "--find", "--show", "--sector-size", "4096"]
        try:
            device = run([*losetup, "--direct-io=on", file]).strip()
        except CommandFailed:
            # Not every file system below can do direct I/O; then the host's page cache plays the disk.
            device = run([*losetup, file]).strip()
        self._devices[volume_id] = device
        link = Path(f"/proc/{init_pid}/root") / LINK_FOLDER / link_name(volume_id)
        link.unlink(missing_ok=True)
        link.symlink_to(device)
        return device

    def mounted(self, volume_id: str) -> bool:
        """Is the device in use by a file system, whatever the namespace? A mount holds it exclusively."""
        device = self._devices.get(volume_id)
        if device is None:
            return False
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError as error:
            if error.errno == errno.EBUSY:
                return True
            raise
        return False

    def detach(self, volume_id: str, init_pid: int | None, *, force: bool = False) -> None:
        """Remove the link and the loop device. `init_pid` None: the node is dead. `force`: power is cut first. From a
        dead node, or by force, the volume goes on even where something still has the device open: see `_fence`."""
        device = self._devices.get(volume_id)
        if device is None:
            return
        if init_pid is not None:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                (Path(f"/proc/{init_pid}/root") / LINK_FOLDER / link_name(volume_id)).unlink()
        if force:
            cut_power([device])
        if self._holds(device, volume_id):
            # With a user left, the kernel keeps the device and clears it at the last close.
            run(["losetup", "--detach", device])
        if init_pid is not None and not force:
            self._wait_released(device, volume_id)
        elif self._lingers(device, volume_id):
            self._fence(volume_id)
        del self._devices[volume_id]

    def cut_power(self, volume_ids: list[str]) -> None:
        """Whatever of these volumes is mounted, and not yet on the disk, is lost."""
        cut_power([device for volume_id in volume_ids if (device := self._devices.get(volume_id))])

    def detach_all(self) -> None:
        """At the end: let go of every loop device of the pool, those that a force-detach left included."""
        for volume_id in list(self._devices):
            self.detach(volume_id, None, force=True)
        for device in loop_devices_below(self._volumes.parent):
            run(["losetup", "--detach", str(device)])
        self._lazy.close()

    def _has_writer(self, volume_id: str) -> bool:
        """Is there a loop device on the very file of the volume? One that was fenced is on another."""
        file = os.stat(self._volumes / f"{volume_id}.img")
        # An inode's number is a file's only together with its file system: the pool's own file lies on another.
        wanted = [str(file.st_ino), f"{os.major(file.st_dev)}:{os.minor(file.st_dev)}"]
        listing = run(["losetup", "--list", "--noheadings", "--output", "BACK-INO,BACK-MAJ:MIN"])
        return any(line.split() == wanted for line in listing.splitlines())

    def _holds(self, device: str, volume_id: str) -> bool:
        # A free device is soon another volume's: the file tells.
        opened = self._opened[volume_id]
        return loop_devices_below(opened.parent).get(Path(device)) == opened

    def _lingers(self, device: str, volume_id: str) -> bool:
        """Does something still have it open? A process that was just killed lets go a moment later."""
        try:
            until(lambda: not self._holds(device, volume_id), LINGER_SECONDS, 0.02)
        except TimeoutError:
            return True
        return False

    def _fence(self, volume_id: str) -> None:
        """Whoever still has the old device open writes on a file that nobody reads: the volume goes on as a copy."""
        file = self._volumes / f"{volume_id}.img"
        clone(file, file)

    def _wait_released(self, device: str, volume_id: str) -> None:
        try:
            until(lambda: not self._holds(device, volume_id), RELEASE_SECONDS, 0.02)
        except TimeoutError:
            raise VolumeFailed(
                f"{volume_id}: {device} is still in use {RELEASE_SECONDS:g} s after the detach"
            ) from None


def clone(source: Path, target: Path) -> None:
    """A reflink copy that appears whole or not at all. OSError EOPNOTSUPP where the file system cannot."""
    partial = target.with_suffix(".partial")
    with source.open("rb") as origin, partial.open("wb") as copy:
        fcntl.ioctl(copy.fileno(), FICLONE, origin.fileno())
    os.rename(partial, target)


def cut_power(devices: list[str]) -> None:
    """Shut down, as a power loss would, each file system mounted from one of `devices` in any mount namespace."""
    waiting = {os.stat(device).st_rdev for device in devices}
    for pid in _one_pid_per_namespace() if waiting else []:
        with contextlib.suppress(OSError):  # it ended meanwhile, and so did its mounts or they are found elsewhere
            for entry in mount_table(pid):
                waiting -= {device for device in waiting if _shut_down(device, pid, entry)}


def _shut_down(device: int, pid: int, entry: MountEntry) -> bool:
    if entry.device != f"{os.major(device)}:{os.minor(device)}":
        return False
    try:
        descriptor = os.open(f"/proc/{pid}/root{entry.point}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # something that cannot be opened lies over the mount point: another mount may serve
    try:
        if os.fstat(descriptor).st_dev != device:
            return False
        fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        return True
    finally:
        os.close(descriptor)


def _one_pid_per_namespace() -> list[int]:
    found: dict[str, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                found.setdefault(os.readlink(f"/proc/{name}/ns/mnt"), int(name))
    return list(found.values())
