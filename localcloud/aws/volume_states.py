"""What becomes of volumes and snapshots over time: AWS's words for it (moto's objects) and the bytes (ebs.Disks).

    volume      creating → available → in-use → available        error when the disk could not be made
    attachment  attaching → attached → detaching (busy while it is mounted) → gone
    snapshot    pending → completed

A volume that is mounted is never taken from a living node unless by force; a dead node's volumes come free a while
after its end. Source: EBS user guide, "Volume state" and "Detach a volume" (a mounted one stays `busy`).
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable

from localcloud.aws.clock import Clock
from localcloud.aws.cloud_config import Timing
from localcloud.aws.ebs import Disks
from localcloud.aws.moto_backend import MotoEc2, VolumeView
from perdure.domain.errors import PerdureError

log = logging.getLogger(__name__)

DiskWork = Callable[[], None]


class VolumeStates:
    """Moves volumes and snapshots from state to state. `init_pid` gives the init of a living node, None of any other.

    Methods named `…_requested` are called with the cloud's lock, by the guards, once moto has said yes. Some return
    disk work, to be done without the lock and before the request is answered. The other methods are called without it.
    """

    def __init__(
        self,
        lock: threading.RLock,
        clock: Clock,
        timing: Timing,
        ec2: MotoEc2,
        disks: Disks,
        init_pid: Callable[[str], int | None],
    ) -> None:
        self._lock, self._clock, self._timing, self._ec2, self._disks = lock, clock, timing, ec2, disks
        self._init_pid = init_pid
        self.deleted: dict[str, VolumeView] = {}
        self._forced: set[str] = set()
        # Disk work on one volume never overlaps: an attach may still run when its node dies.
        self._busy: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def create_requested(self, volume_id: str, size_gib: int, snapshot_id: str | None) -> DiskWork:
        """`creating` for a while. The bytes are the snapshot's at once, which may be deleted right after."""
        self._ec2.set_volume_transition(volume_id, "creating")
        return lambda: self._create(volume_id, size_gib, snapshot_id)

    def attach_requested(self, volume_id: str, instance_id: str) -> None:
        """`attaching` until the node has the device."""
        self._ec2.set_attachment_status(volume_id, "attaching")
        self._clock.run(lambda: self._attach(volume_id, instance_id))

    def detach_requested(self, volume_id: str, *, force: bool) -> None:
        """`detaching` until it is unmounted, or at once by force. Asked again, only the force is new."""
        if force:
            self._forced.add(volume_id)
        volume = self._ec2.volume(volume_id)
        if volume is None or volume.attachment is None or volume.attachment.status in {"detaching", "busy"}:
            return
        self._ec2.set_attachment_status(volume_id, "detaching")
        self._clock.after(self._timing.detach, lambda: self._detach(volume_id))

    def snapshot_requested(self, volume_id: str, snapshot_id: str) -> DiskWork:
        """`pending` for a while; the bytes are those of now."""
        self._ec2.set_snapshot_status(snapshot_id, "pending")
        return lambda: self._settle(snapshot_id, lambda: self._disks.snapshot(volume_id, snapshot_id))

    def copy_requested(self, source_id: str, snapshot_id: str) -> DiskWork:
        """As `snapshot_requested`, of a snapshot."""
        self._ec2.set_snapshot_status(snapshot_id, "pending")
        return lambda: self._settle(snapshot_id, lambda: self._disks.copy_snapshot(source_id, snapshot_id))

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
        self._clock.after(self._timing.dead_host_release, lambda: self._release(instance_id, released))

    def _create(self, volume_id: str, size_gib: int, snapshot_id: str | None) -> None:
        try:
            with self._busy[volume_id]:
                self._disks.create(volume_id, size_gib, snapshot_id)
        except (PerdureError, OSError):
            log.exception("volume %s could not be made", volume_id)
            with self._lock:
                self._ec2.set_volume_transition(volume_id, "error")
            return
        self._clock.after(self._timing.volume_create, lambda: self._created(volume_id))

    def _created(self, volume_id: str) -> None:
        with self._lock:
            self._ec2.set_volume_transition(volume_id, "")

    def _attach(self, volume_id: str, instance_id: str) -> None:
        with self._busy[volume_id]:
            pid = self._init_pid(instance_id)
            if pid is None:
                return  # an instance without a node, or one that has just died: AWS too leaves it `attaching`
            self._disks.attach(volume_id, pid)
        self._clock.after(self._timing.attach, lambda: self._attached(volume_id, instance_id))

    def _attached(self, volume_id: str, instance_id: str) -> None:
        with self._lock:
            volume = self._ec2.volume(volume_id)
            attachment = volume and volume.attachment
            if attachment and attachment.instance_id == instance_id and attachment.status == "attaching":
                self._ec2.set_attachment_status(volume_id, "attached")

    def _detach(self, volume_id: str) -> None:
        with self._lock:
            volume = self._ec2.volume(volume_id)
            if volume is None or volume.attachment is None:
                return  # the instance died meanwhile, and its end released the volume
            instance_id, force = volume.attachment.instance_id, volume_id in self._forced
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
            self._clock.after(self._timing.device_poll, lambda: self._detach(volume_id))
            return
        with self._lock:
            self._forced.discard(volume_id)
            self._ec2.release(volume_id)

    def _settle(self, snapshot_id: str, copy: DiskWork) -> None:
        try:
            copy()
        except OSError:
            log.exception("snapshot %s could not be made", snapshot_id)
            with self._lock:
                self._ec2.set_snapshot_status(snapshot_id, "error")
            return
        self._clock.after(self._timing.snapshot, lambda: self._completed(snapshot_id))

    def _completed(self, snapshot_id: str) -> None:
        with self._lock:
            self._ec2.set_snapshot_status(snapshot_id, "completed")

    def _release(self, instance_id: str, released: Callable[[], None]) -> None:
        with self._lock:
            for volume_id in self.attached_to(instance_id):
                self._forced.discard(volume_id)
                self._ec2.release(volume_id)
        released()
