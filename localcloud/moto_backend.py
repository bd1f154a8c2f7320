"""The one module that touches moto, its private names included; tests/integration/test_moto_contract.py pins them.

moto is pinned exactly. It answers requests (`application`), and keeps EC2's objects, whose states it moves at once
where AWS takes its time. `MotoEc2` reads those objects and puts them into the states that AWS would show. Everything
that boto3 can ask goes through boto3 instead, like anyone's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from moto.ec2.models import ec2_backends, elastic_block_store
from moto.ec2.models.instances import StateReason
from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app

from localcloud.cloud_config import ACCOUNT

STATE_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48}
SPOT_TERMINATION = ("Server.SpotInstanceTermination: Spot instance termination", "Server.SpotInstanceTermination")
"""(message, code) of a reclaimed instance's state reason, as DescribeInstances shows it."""


class _Volume(elastic_block_store.Volume):
    transition = ""

    @property
    def status(self) -> str:
        return self.transition or super().status


class _Snapshot(elastic_block_store.Snapshot):
    @property
    def progress(self) -> str:
        return "100%" if self.status == "completed" else "0%"


# moto looks both names up in its module whenever it makes one.
elastic_block_store.Volume = _Volume  # type: ignore[misc]
elastic_block_store.Snapshot = _Snapshot  # type: ignore[misc]


class RequestHandler(MotoRequestHandler):
    """moto's own (it keeps header names that S3 needs), silent: a line per request would bury the cloud's log."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


def application() -> Callable[..., Iterable[bytes]]:
    """moto's server as a WSGI application, with nothing in it: moto's state belongs to the process, not to a server."""
    moto_api_backend.reset()
    app: Callable[..., Iterable[bytes]] = DomainDispatcherApplication(create_backend_app)
    return app


@dataclass(frozen=True)
class Attachment:
    """Where a volume is attached, in AWS's words (`attaching`, `attached`, `busy`, `detaching`)."""

    instance_id: str
    device: str
    status: str
    attached_at: datetime


@dataclass(frozen=True)
class VolumeView:
    """A volume as DescribeVolumes would show it now."""

    volume_id: str
    zone: str
    size_gib: int
    status: str
    created_at: datetime
    tags: dict[str, str]
    attachment: Attachment | None


@dataclass(frozen=True)
class SnapshotView:
    """A snapshot as DescribeSnapshots would show it now."""

    snapshot_id: str
    status: str
    size_gib: int


@dataclass(frozen=True)
class InstanceView:
    """An instance as DescribeInstances would show it now."""

    instance_id: str
    zone: str
    state: str
    devices: frozenset[str]


class MotoEc2:
    """EC2's objects in one region. Callers hold the cloud's lock; unknown ids give None, or nothing done."""

    def __init__(self, region: str) -> None:
        self._backend: Any = ec2_backends[ACCOUNT][region]

    def volume(self, volume_id: str) -> VolumeView | None:
        """Read a volume."""
        found = self._backend.volumes.get(volume_id)
        return None if found is None else _volume_view(found)

    def data_volumes(self) -> list[VolumeView]:
        """All volumes but the instances' root volumes, which have no bytes here."""
        return [_volume_view(volume) for volume in list(self._backend.volumes.values()) if not _is_root(volume)]

    def snapshot(self, snapshot_id: str) -> SnapshotView | None:
        """Read a snapshot."""
        found = self._backend.snapshots.get(snapshot_id)
        return None if found is None else SnapshotView(found.id, found.status, found.volume_size)

    def instance(self, instance_id: str) -> InstanceView | None:
        """Read an instance."""
        found = self._instance(instance_id)
        if found is None:
            return None
        return InstanceView(found.id, found.placement.zone, found.state, frozenset(found.block_device_mapping))

    def set_volume_transition(self, volume_id: str, status: str) -> None:
        """Show `status` (such as `creating`) whatever moto thinks; "" goes back to moto's own."""
        volume = self._backend.volumes.get(volume_id)
        if volume is not None:
            volume.transition = status

    def set_attachment_status(self, volume_id: str, status: str) -> None:
        """Show `status` on the volume's attachment and in its instance's block devices."""
        volume = self._backend.volumes.get(volume_id)
        if volume is None or volume.attachment is None:
            return
        volume.attachment.status = status
        block = volume.attachment.instance.block_device_mapping.get(volume.attachment.device)
        if block is not None:
            block.status = status

    def release(self, volume_id: str) -> None:
        """End the volume's attachment: it is `available` from now on."""
        volume = self._backend.volumes.get(volume_id)
        if volume is None or volume.attachment is None:
            return
        volume.attachment.instance.block_device_mapping.pop(volume.attachment.device, None)
        volume.attachment.status = "detached"
        volume.attachment = None

    def set_snapshot_status(self, snapshot_id: str, status: str) -> None:
        """`pending` or `completed`."""
        snapshot = self._backend.snapshots.get(snapshot_id)
        if snapshot is not None:
            snapshot.status = status

    def set_instance_state(self, instance_id: str, state: str, reason: tuple[str, str] = ("", "")) -> None:
        """One of STATE_CODES, with (message, code) of the state reason."""
        instance = self._instance(instance_id)
        if instance is not None:
            instance._state.name, instance._state.code = state, STATE_CODES[state]
            instance.state_reason = StateReason(*reason)

    def terminate(self, instance_id: str, reason: tuple[str, str] = ("", "")) -> None:
        """`terminated`: its root volume goes; data volumes stay attached until `release`, as AWS's do for a while."""
        instance = self._instance(instance_id)
        if instance is None:
            return
        for device, block in list(instance.block_device_mapping.items()):
            if not block.delete_on_termination:
                del instance.block_device_mapping[device]
        instance.terminate()
        self.set_instance_state(instance_id, "terminated", reason)

    def _instance(self, instance_id: str) -> Any:
        return next((found for found in self._backend.all_instances() if found.id == instance_id), None)


def _is_root(volume: Any) -> bool:
    if volume.attachment is None:
        return False
    block = volume.attachment.instance.block_device_mapping.get(volume.attachment.device)
    return block is not None and bool(block.delete_on_termination)


def _volume_view(volume: Any) -> VolumeView:
    attachment = volume.attachment
    return VolumeView(
        volume.id,
        volume.availability_zone or "",
        volume.size,
        volume.status,
        volume.create_time,
        {tag["key"]: tag["value"] for tag in volume.get_tags()},
        attachment and Attachment(attachment.instance.id, attachment.device, attachment.status, attachment.attach_time),
    )
