"""What becomes of volumes and snapshots over time: AWS's words for it (moto's objects) and the bytes (ebs.Disks).

    volume      creating → available → in-use → available        error when the disk could not be made
    attachment  attaching → attached → detaching (busy while it is mounted) → gone
    snapshot    pending → completed

A volume that is mounted is never taken from a living node unless by force; a dead node's volumes come free a while
after its end, also when a detach is asked for meanwhile (aws-ebs-csi-driver #1926). Source: EBS user guide, "Volume
state" and "Detach a volume" (a mounted one stays `busy`). How long all of it takes, and what gets stuck, is
ebs_conditions.py's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

from localcloud.aws.clock import Clock
from localcloud.aws.ebs import Disks
from localcloud.aws.ebs_conditions import EbsConditions, FaultKind
from localcloud.aws.lazy_mount import Laziness
from localcloud.aws.moto_backend import MotoEc2, VolumeView
from perdure.domain.errors import PerdureError, VolumeFailed

log = logging.getLogger(__name__)

DiskWork = Callable[[], None]
Copy = Callable[[], tuple[int, int]]
"""Makes a snapshot's bytes; returns how many it moved and how many it holds."""
LOOK_SECONDS = 0.1
"""Between two looks whether what is stuck may go on."""


@dataclass(frozen=True)
class SnapshotFacts:
    """What a snapshot moved, kept after its deletion: bytes of the blocks that changed since `parent` (None: all of
    them), bytes of all blocks with data, seconds until it was completed."""

    snapshot_id: str
    volume_id: str
    parent: str | None
    moved_bytes: int
    full_bytes: int
    seconds: float
    completed: bool = False


class VolumeStates:
    """Moves volumes and snapshots from state to state. `init_pid` gives the init of a living node, None of any other.

    Methods named `…_requested` are called with the cloud's lock, by the guards, once moto has said yes. Some return
    disk work, to be done without the lock and before the request is answered. The other methods are called without it.
    """

    def __init__(
        self,
        lock: threading.RLock,
        clock: Clock,
        device_poll: float,
        conditions: EbsConditions,
        ec2: MotoEc2,
        disks: Disks,
        init_pid: Callable[[str], int | None],
    ) -> None:
        self._lock, self._clock, self._ec2, self._disks = lock, clock, ec2, disks
        self._device_poll, self._conditions, self._init_pid = device_poll, conditions, init_pid
        self.deleted: dict[str, VolumeView] = {}
        self.snapshots: dict[str, SnapshotFacts] = {}
        self._sources: dict[str, str] = {}
        """The snapshot that a volume was made from: its own first one holds what changed since."""
        self._forced: set[str] = set()
        self._dying: set[str] = set()
        self._stuck: dict[str, float] = {}
        """Volumes that stay as they are, until when (monotonic seconds)."""
        # Disk work on one volume never overlaps: an attach may still run when its node dies.
        self._busy: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def create_requested(
        self, volume_id: str, size_gib: int, snapshot_id: str | None, initialization_rate: int = 0
    ) -> DiskWork:
        """`creating` for a while. The bytes are the snapshot's at once, which may be deleted right after; on other
        rates than the fast ones, each of their blocks is slow when it is first touched."""
        self._ec2.set_volume_transition(volume_id, "creating")
        rates, laziness = self._conditions.rates, None
        if snapshot_id:
            self._sources[volume_id] = snapshot_id
            if rates.fetch_mib_per_second:
                laziness = Laziness(
                    first_touch_seconds=rates.first_touch,
                    mib_per_second=rates.fetch_mib_per_second,
                    initialization_mib_per_second=initialization_rate,
                )
        broken = self._conditions.strikes(FaultKind.VOLUME_ERROR, volume_id) is not None
        return lambda: self._create(volume_id, size_gib, snapshot_id, laziness, broken)

    def attach_requested(self, volume_id: str, instance_id: str) -> None:
        """`attaching` until the node has the device."""
        self._ec2.set_attachment_status(volume_id, "attaching")
        self._get_stuck(volume_id, FaultKind.STUCK_ATTACHING)
        self._clock.run(lambda: self._attach(volume_id, instance_id))

    def detach_requested(self, volume_id: str, *, force: bool) -> None:
        """`detaching` until it is unmounted, or at once by force. Asked again, only the force is new."""
        if force:
            self._forced.add(volume_id)
        volume = self._ec2.volume(volume_id)
        if volume is None or volume.attachment is None or volume.attachment.status in {"detaching", "busy"}:
            return
        self._stuck.pop(volume_id, None)
        self._get_stuck(volume_id, FaultKind.STUCK_DETACHING)
        self._ec2.set_attachment_status(volume_id, "detaching")
        self._clock.after(self._conditions.delay(self._conditions.rates.detach), lambda: self._detach(volume_id))

    def snapshot_requested(self, volume_id: str, snapshot_id: str) -> DiskWork:
        """`pending` for a while; the bytes are those of now."""
        parent = self._parent(volume_id, snapshot_id)
        self._ec2.set_snapshot_status(snapshot_id, "pending")
        return lambda: self._settle(
            snapshot_id, volume_id, parent, lambda: self._disks.snapshot(volume_id, snapshot_id, parent)
        )

    def copy_requested(self, source_id: str, snapshot_id: str) -> DiskWork:
        """As `snapshot_requested`, of a snapshot."""
        self._ec2.set_snapshot_status(snapshot_id, "pending")

        def copy() -> tuple[int, int]:
            self._disks.copy_snapshot(source_id, snapshot_id)
            known = self.snapshots.get(source_id)
            return (known.full_bytes, known.full_bytes) if known else (0, 0)

        return lambda: self._settle(snapshot_id, "", None, copy)

    def unstick(self) -> None:
        """What was stuck goes on."""
        self._stuck.clear()

    def _get_stuck(self, volume_id: str, kind: FaultKind) -> None:
        fault = self._conditions.strikes(kind, volume_id)
        if fault is not None:
            self._stuck[volume_id] = float("inf") if fault.seconds is None else time.monotonic() + fault.seconds

    def _is_stuck(self, volume_id: str) -> bool:
        """Not any more once it is taken by force."""
        with self._lock:
            if volume_id in self._forced:
                self._stuck.pop(volume_id, None)
            return time.monotonic() < self._stuck.get(volume_id, 0.0)

    def _parent(self, volume_id: str, snapshot_id: str) -> str | None:
        """What a new snapshot of the volume is compared with: the newest completed one of it that still exists, else
        the one that the volume was made from (EBS user guide, "How snapshots work")."""
        own = [one.snapshot_id for one in self._ec2.snapshots_of(volume_id) if one.status == "completed"]
        made = [known for known in self.snapshots if known in own and known != snapshot_id]
        if made:
            return made[-1]
        source = self._sources.get(volume_id)
        return source if source and self._ec2.snapshot(source) is not None else None

    def delete_requested(self, volume: VolumeView) -> None:
        """The file is put aside, and what was known of the volume with it."""
        self.deleted[volume.volume_id] = volume
        self._disks.delete_volume(volume.volume_id)

    def delete_snapshot_requested(self, snapshot_id: str) -> None:
        """The file goes."""
        self._disks.delete_snapshot(snapshot_id)

    def grow_requested(self, volume_id: str, size_gib: int) -> DiskWork:
        """The device is larger at once; the file system on it is the instance's own affair."""
        return lambda: self._disks.grow(volume_id, size_gib)

    def attached_to(self, instance_id: str) -> list[str]:
        """Ids of the instance's data volumes, those included that are on their way in or out."""
        with self._lock:
            return [
                volume.volume_id
                for volume in self._ec2.data_volumes()
                if volume.attachment is not None and volume.attachment.instance_id == instance_id
            ]

    def cut_power(self, instance_id: str) -> None:
        """The instance's mounted volumes keep only what was synced. Called while the node is frozen."""
        self._disks.cut_power(self.attached_to(instance_id))

    def free_devices(self, instance_id: str) -> None:
        """No process of the node is left: its loop devices go. EC2 shows its volumes attached for a while yet."""
        for volume_id in self.attached_to(instance_id):
            try:
                with self._busy[volume_id]:
                    self._disks.detach(volume_id, None)
            except PerdureError:
                # Its power was cut, so whoever still holds the device can write nothing more: the volume may go on.
                log.exception("volume %s of the dead %s: its device is not free", volume_id, instance_id)

    def instance_died(self, instance_id: str, released: Callable[[], None]) -> None:
        """Its volumes become `available` in a while; then `released` is called."""
        with self._lock:
            self._dying.add(instance_id)
            seconds = self._conditions.delay(self._conditions.rates.dead_host_release)
        self._clock.after(seconds, lambda: self._release(instance_id, released))

    def _create(
        self, volume_id: str, size_gib: int, snapshot_id: str | None, laziness: Laziness | None, broken: bool
    ) -> None:
        try:
            with self._busy[volume_id]:
                self._disks.create(volume_id, size_gib, snapshot_id, laziness)
            if broken:
                raise VolumeFailed("a fault that was asked for")
        except (PerdureError, OSError):
            log.exception("volume %s could not be made", volume_id)
            with self._lock:
                self._ec2.set_volume_transition(volume_id, "error")
            return
        self._clock.after(self._delay("volume_create"), lambda: self._created(volume_id))

    def _delay(self, rate: str) -> float:
        with self._lock:
            return self._conditions.delay(getattr(self._conditions.rates, rate))

    def _created(self, volume_id: str) -> None:
        with self._lock:
            self._ec2.set_volume_transition(volume_id, "")

    def _attach(self, volume_id: str, instance_id: str) -> None:
        if self._is_stuck(volume_id):
            self._clock.after(LOOK_SECONDS, lambda: self._attach(volume_id, instance_id))
            return
        with self._busy[volume_id]:
            pid = self._init_pid(instance_id)
            if pid is None or not self._is_attaching(volume_id, instance_id):
                return  # an instance without a node, or one that has just died: AWS too leaves it `attaching`
            if self._disks.device(volume_id) is not None:
                return  # an attach that hung, was taken back and asked for again: the other request was first
            self._disks.attach(volume_id, pid)
        self._clock.after(self._delay("attach"), lambda: self._attached(volume_id, instance_id))

    def _is_attaching(self, volume_id: str, instance_id: str) -> bool:
        with self._lock:
            volume = self._ec2.volume(volume_id)
            attachment = volume and volume.attachment
            return bool(attachment and attachment.instance_id == instance_id and attachment.status == "attaching")

    def _attached(self, volume_id: str, instance_id: str) -> None:
        with self._lock:
            if self._is_attaching(volume_id, instance_id):
                self._ec2.set_attachment_status(volume_id, "attached")

    def _detach(self, volume_id: str) -> None:
        with self._lock:
            volume = self._ec2.volume(volume_id)
            if volume is None or volume.attachment is None:
                return  # the instance died meanwhile, and its end released the volume
            instance_id, force = volume.attachment.instance_id, volume_id in self._forced
            if instance_id in self._dying:
                return  # its end is waited for, and releases the volume
        if self._is_stuck(volume_id):
            self._clock.after(LOOK_SECONDS, lambda: self._detach(volume_id))
            return
        pid = self._init_pid(instance_id)
        try:
            with self._busy[volume_id]:
                mounted = not force and self._disks.mounted(volume_id)
                if not mounted:
                    self._disks.detach(volume_id, pid, force=force)
        except PerdureError:
            log.exception("volume %s is not detached yet", volume_id)
            mounted = True
        if mounted:
            with self._lock:
                self._ec2.set_attachment_status(volume_id, "busy")
            self._clock.after(self._device_poll, lambda: self._detach(volume_id))
            return
        with self._lock:
            self._forced.discard(volume_id)
            self._ec2.release(volume_id)

    def _settle(self, snapshot_id: str, volume_id: str, parent: str | None, copy: Copy) -> None:
        try:
            moved, full = copy()
        except OSError:
            log.exception("snapshot %s could not be made", snapshot_id)
            with self._lock:
                self._ec2.set_snapshot_status(snapshot_id, "error")
            return
        with self._lock:
            seconds = self._conditions.snapshot_seconds(moved)
            self.snapshots[snapshot_id] = SnapshotFacts(snapshot_id, volume_id, parent, moved, full, seconds)
            self._ec2.expect_snapshot(snapshot_id, seconds, full)
            failed = self._conditions.strikes(FaultKind.SNAPSHOT_ERROR, volume_id) is not None
        self._clock.after(seconds, lambda: self._settled(snapshot_id, "error" if failed else "completed"))

    def _settled(self, snapshot_id: str, status: str) -> None:
        with self._lock:
            self._ec2.set_snapshot_status(snapshot_id, status)
            self.snapshots[snapshot_id] = replace(self.snapshots[snapshot_id], completed=status == "completed")

    def _release(self, instance_id: str, released: Callable[[], None]) -> None:
        with self._lock:
            self._dying.discard(instance_id)
            for volume_id in self.attached_to(instance_id):
                self._forced.discard(volume_id)
                self._stuck.pop(volume_id, None)
                self._ec2.release(volume_id)
        released()
