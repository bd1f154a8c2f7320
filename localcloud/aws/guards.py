"""EC2 in front of moto: refuses what AWS refuses and moto lets through, and starts what AWS takes its time for.

Each guard is one EC2 action: it checks, asks moto, and tells `VolumeStates` what has begun. Everything else goes to
moto untouched. Codes and messages are AWS's (EC2 API reference, "Error codes").
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from localcloud.aws import ec2_wire
from localcloud.aws.ebs_conditions import EbsConditions, FaultKind
from localcloud.aws.ec2_wire import Application, Environ, StartResponse
from localcloud.aws.moto_backend import MotoEc2, VolumeView
from localcloud.aws.prices import describe_spot_price_history
from localcloud.aws.volume_states import DiskWork, VolumeStates
from localcloud.errors import AwsError

MOST_ATTACHMENTS = 27
"""Volumes besides the root on an instance: 28 shared slots on Nitro (EC2 user guide, "Volume limits")."""
MOST_PENDING = 5
"""Snapshots of one gp2 or gp3 volume that may be pending (EBS user guide, "Quotas for Amazon EBS")."""
Params = dict[str, str]


@dataclass(frozen=True)
class Answer:
    """moto's answer, or ours; `disk_work` is done before it goes out, without the lock."""

    body: bytes
    status: int = 200
    disk_work: DiskWork | None = None


class Ec2Guards:
    """A WSGI application. `terminate` ends those of the given instances that are nodes, and says which they were."""

    def __init__(
        self,
        app: Application,
        lock: threading.RLock,
        ec2: MotoEc2,
        states: VolumeStates,
        conditions: EbsConditions,
        zones: list[str],
        terminate: Callable[[list[str]], list[str]],
    ) -> None:
        self._conditions = conditions
        self._app, self._lock, self._ec2, self._states = app, lock, ec2, states
        self._zones, self._terminate = zones, terminate
        self._tokens: dict[str, tuple[Params, Answer]] = {}
        self._guards: dict[str, Callable[[Params, Environ], Answer]] = {
            "CreateVolume": self._create_volume,
            "AttachVolume": self._attach_volume,
            "DetachVolume": self._detach_volume,
            "DeleteVolume": self._delete_volume,
            "ModifyVolume": self._modify_volume,
            "CreateSnapshot": self._create_snapshot,
            "CopySnapshot": self._copy_snapshot,
            "DeleteSnapshot": self._delete_snapshot,
            "TerminateInstances": self._terminate_instances,
            "DescribeSpotPriceHistory": self._describe_spot_price_history,
        }

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        """Answer one EC2 request."""
        params = ec2_wire.read_query(environ)
        guard = self._guards.get(params.get("Action", ""))
        try:
            with self._lock:
                self._conditions.check(params.get("Action", ""))
            if guard is None or params.get("DryRun", "false").lower() == "true":
                return self._app(environ, start)
            # moto only touches memory, so the lock may be held across it: check and change are one.
            with self._lock:
                answer = guard(params, environ)
            if answer.disk_work is not None:
                answer.disk_work()
        except AwsError as refusal:
            answer = Answer(ec2_wire.error(refusal), refusal.status)
        return ec2_wire.respond(start, answer.body, answer.status)

    def _ask_moto(self, environ: Environ) -> Answer:
        body, status, _ = ec2_wire.forward(self._app, environ)
        return Answer(body, status)

    def _volume(self, params: Params) -> VolumeView:
        volume_id = params.get("VolumeId", "")
        volume = self._ec2.volume(volume_id)
        if volume is None:
            raise AwsError("InvalidVolume.NotFound", f"The volume '{volume_id}' does not exist.")
        return volume

    def _create_volume(self, params: Params, environ: Environ) -> Answer:
        token = params.get("ClientToken", "")
        asked = {name: value for name, value in params.items() if name not in {"ClientToken", "Version"}}
        if token in self._tokens:
            before, answer = self._tokens[token]
            if before != asked:
                raise AwsError(
                    "IdempotentParameterMismatch",
                    f"The client token '{token}' was used with other parameters.",
                )
            return answer
        zone, snapshot_id = params.get("AvailabilityZone", ""), params.get("SnapshotId")
        if zone not in self._zones:
            raise AwsError("InvalidZone.NotFound", f"The zone '{zone}' does not exist.")
        if snapshot_id and (snapshot := self._ec2.snapshot(snapshot_id)):
            if snapshot.status != "completed":
                raise AwsError("IncorrectState", f"Snapshot is in invalid state - {snapshot.status}")
            if int(params.get("Size") or snapshot.size_gib) < snapshot.size_gib:
                raise AwsError("InvalidParameterValue", f"The volume is smaller than its snapshot '{snapshot_id}'.")
        rate = _initialization_rate(params.get("VolumeInitializationRate"), snapshot_id)
        if self._conditions.strikes(FaultKind.NO_VOLUMES):
            raise AwsError("InsufficientVolumeCapacity", f"There is no capacity for such a volume in {zone}.", 500)
        answer = self._ask_moto(environ)
        if answer.status == 200:
            size = int(ec2_wire.field(answer.body, "size"))
            work = self._states.create_requested(ec2_wire.field(answer.body, "volumeId"), size, snapshot_id, rate)
            body = answer.body.replace(b"<status>available<", b"<status>creating<")
            if token:
                self._tokens[token] = (asked, Answer(body))
            return Answer(body, disk_work=work)
        return answer

    def _attach_volume(self, params: Params, environ: Environ) -> Answer:
        volume, instance_id = self._volume(params), params.get("InstanceId", "")
        instance = self._ec2.instance(instance_id)
        if instance is None:
            raise AwsError("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")
        if instance.state != "running":
            raise AwsError("IncorrectState", f"Instance '{instance_id}' is not 'running'.")
        if volume.attachment is not None:
            raise AwsError("VolumeInUse", f"{volume.volume_id} is already attached to an instance")
        if volume.status != "available":
            raise AwsError("IncorrectState", f"{volume.volume_id} is not 'available'.")
        if volume.zone != instance.zone:
            raise AwsError(
                "InvalidVolume.ZoneMismatch",
                f"The volume '{volume.volume_id}' is not in the same availability zone as instance '{instance_id}'",
            )
        device = params.get("Device", "")
        if device in instance.devices:
            raise AwsError(
                "InvalidParameterValue",
                f"Invalid value '{device}' for unixDevice. Attachment point {device} is already in use",
            )
        if len(instance.devices) > MOST_ATTACHMENTS:
            raise AwsError("AttachmentLimitExceeded", f"Volume attachment limit exceeded for instance '{instance_id}'.")
        answer = self._ask_moto(environ)
        if answer.status == 200:
            self._states.attach_requested(volume.volume_id, instance_id)
        return answer

    def _detach_volume(self, params: Params, environ: Environ) -> Answer:
        volume = self._volume(params)
        attachment = volume.attachment
        if attachment is None:
            raise AwsError("IncorrectState", f"Volume '{volume.volume_id}' is in the '{volume.status}' state.")
        # InstanceId is optional on AWS; moto fails without it and knows no delay, so the answer is ours.
        if params.get("InstanceId", attachment.instance_id) != attachment.instance_id:
            raise AwsError(
                "InvalidAttachment.NotFound",
                f"The volume '{volume.volume_id}' is not attached to instance '{params['InstanceId']}'.",
            )
        self._states.detach_requested(volume.volume_id, force=params.get("Force", "false").lower() == "true")
        fields = (
            f"<volumeId>{volume.volume_id}</volumeId><instanceId>{attachment.instance_id}</instanceId>"
            f"<device>{attachment.device}</device><status>detaching</status>"
            f"<attachTime>{ec2_wire.timestamp(attachment.attached_at)}</attachTime>"
        )
        return Answer(ec2_wire.answer("DetachVolume", fields))

    def _delete_volume(self, params: Params, environ: Environ) -> Answer:
        volume = self._volume(params)
        if volume.status == "creating":
            raise AwsError("IncorrectState", f"Volume '{volume.volume_id}' is in the 'creating' state.")
        answer = self._ask_moto(environ)
        if answer.status == 200:
            self._states.delete_requested(volume)
        return answer

    def _modify_volume(self, params: Params, environ: Environ) -> Answer:
        volume = self._volume(params)
        size = int(params.get("Size", volume.size_gib))
        if size < volume.size_gib:
            raise AwsError("InvalidParameterValue", "New size cannot be smaller than existing size")
        answer = self._ask_moto(environ)
        if answer.status == 200 and size > volume.size_gib:
            return Answer(answer.body, disk_work=self._states.grow_requested(volume.volume_id, size))
        return answer

    def _create_snapshot(self, params: Params, environ: Environ) -> Answer:
        volume = self._volume(params)
        if volume.status not in {"available", "in-use"}:
            raise AwsError("IncorrectState", f"Volume '{volume.volume_id}' is in the '{volume.status}' state.")
        if sum(one.status == "pending" for one in self._ec2.snapshots_of(volume.volume_id)) >= MOST_PENDING:
            raise AwsError(
                "ConcurrentSnapshotLimitExceeded",
                f"Maximum allowed in-progress snapshots for volume '{volume.volume_id}' exceeded.",
            )
        answer = self._ask_moto(environ)
        if answer.status == 200:
            work = self._states.snapshot_requested(volume.volume_id, ec2_wire.field(answer.body, "snapshotId"))
            return Answer(answer.body.replace(b"<status>completed<", b"<status>pending<"), disk_work=work)
        return answer

    def _copy_snapshot(self, params: Params, environ: Environ) -> Answer:
        source = self._ec2.snapshot(params.get("SourceSnapshotId", ""))
        if source is not None and source.status != "completed":
            raise AwsError("IncorrectState", f"Snapshot is in invalid state - {source.status}")
        answer = self._ask_moto(environ)
        if answer.status == 200 and source is not None:
            work = self._states.copy_requested(source.snapshot_id, ec2_wire.field(answer.body, "snapshotId"))
            return Answer(answer.body, disk_work=work)
        return answer

    def _delete_snapshot(self, params: Params, environ: Environ) -> Answer:
        answer = self._ask_moto(environ)
        if answer.status == 200:
            self._states.delete_snapshot_requested(params["SnapshotId"])
        return answer

    def _describe_spot_price_history(self, params: Params, environ: Environ) -> Answer:
        return Answer(describe_spot_price_history(params, self._zones, datetime.now(UTC)))

    def _terminate_instances(self, params: Params, environ: Environ) -> Answer:
        wanted = [value for name, value in params.items() if name.startswith("InstanceId.")]
        nodes = self._terminate(wanted)
        if not nodes:
            return self._ask_moto(environ)
        items = "".join(
            f"<item><instanceId>{instance_id}</instanceId>"
            "<currentState><code>32</code><name>shutting-down</name></currentState>"
            "<previousState><code>16</code><name>running</name></previousState></item>"
            for instance_id in nodes
        )
        return Answer(ec2_wire.answer("TerminateInstances", f"<instancesSet>{items}</instancesSet>"))


def _initialization_rate(given: str | None, snapshot_id: str | None) -> int:
    """MiB/s; 0 when none was given (EC2 API reference, CreateVolume: 100 to 300, with a snapshot only)."""
    if given is None:
        return 0
    if not snapshot_id or not 100 <= int(given) <= 300:
        raise AwsError("InvalidParameterValue", f"Invalid value '{given}' for VolumeInitializationRate.")
    return int(given)
