"""The one module that touches moto, its private names included; tests/integration/test_moto_contract.py pins them.

moto is pinned exactly. It answers requests (`application`), and keeps EC2's objects, whose states it moves at once
where AWS takes its time. `MotoEc2` reads those objects and puts them into the states that AWS would show. `MotoPools`
reads Cognito's user pools and issues their tokens. Everything that boto3 can ask goes through boto3 instead, like
anyone's.
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from moto.cognitoidp import models as cognito_models
from moto.cognitoidp.models import cognitoidp_backends
from moto.cognitoidp.utils import verify_totp
from moto.ec2.models import ec2_backends, elastic_block_store
from moto.ec2.models.instances import StateReason
from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app

from localcloud.aws.cloud_config import ACCOUNT

os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
"""Each list of snapshots would go through those of 560 images that nobody uses here."""
STATE_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48}
SPOT_TERMINATION = ("Server.SpotInstanceTermination: Spot instance termination", "Server.SpotInstanceTermination")
"""(message, code) of a reclaimed instance's state reason, as DescribeInstances shows it."""


class _Volume(elastic_block_store.Volume):
    transition = ""

    @property
    def status(self) -> str:
        return self.transition or super().status


class _Snapshot(elastic_block_store.Snapshot):
    expected: tuple[float, float] | None = None
    """When it was begun and when it will be done, in seconds of the monotonic clock."""
    completion_time: datetime | None = None
    full_snapshot_size_in_bytes: int | None = None

    @property
    def progress(self) -> str:
        if self.status == "completed":
            return "100%"
        begun, done = self.expected or (0.0, 0.0)
        passed = (time.monotonic() - begun) / (done - begun) if done > begun else 0.0
        return f"{min(99, int(100 * passed))}%"


# moto looks both names up in its module whenever it makes one.
elastic_block_store.Volume = _Volume  # type: ignore[misc]
elastic_block_store.Snapshot = _Snapshot  # type: ignore[misc]

# A code that was current when somebody read it may be half a minute old when it arrives (RFC 6238, 5.2); moto takes
# none of those.
cognito_models.verify_totp = partial(verify_totp, valid_window=1)  # type: ignore[attr-defined]


class RequestHandler(MotoRequestHandler):
    """moto's own (it keeps header names that S3 needs), silent: a line per request would bury the cloud's log."""

    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


def application() -> Callable[..., Iterable[bytes]]:
    """moto's server as a WSGI application, with nothing in it: moto's state belongs to the process, not to a server."""
    # Without it moto takes any code for one of an authenticator app.
    os.environ["MOTO_COGNITO_IDP_USER_POOL_ENABLE_TOTP"] = "true"
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
    volume_id: str
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
        return None if found is None else _snapshot_view(found)

    def snapshots_of(self, volume_id: str) -> list[SnapshotView]:
        """All that were made of this volume and exist."""
        return [_snapshot_view(found) for found in self._backend.snapshots.values() if found.volume.id == volume_id]

    def expect_snapshot(self, snapshot_id: str, seconds: float, full_bytes: int) -> None:
        """It will be completed in so many seconds, by which its progress is shown, and holds so many bytes."""
        snapshot = self._backend.snapshots.get(snapshot_id)
        if snapshot is not None:
            snapshot.expected = (time.monotonic(), time.monotonic() + seconds)
            snapshot.full_snapshot_size_in_bytes = full_bytes

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
        """`pending`, `completed` or `error`."""
        snapshot = self._backend.snapshots.get(snapshot_id)
        if snapshot is not None:
            snapshot.status = status
            snapshot.completion_time = datetime.now(UTC) if status == "completed" else None

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
        if not reason[1].startswith("Client."):
            instance._reason = reason[1]  # moto's is `User initiated (…)`, whoever did it
        self.set_instance_state(instance_id, "terminated", reason)

    def _instance(self, instance_id: str) -> Any:
        return next((found for found in self._backend.all_instances() if found.id == instance_id), None)


@dataclass(frozen=True)
class AppClient:
    """An app client of a user pool, as far as signing in goes."""

    pool_id: str
    client_id: str
    has_secret: bool
    auth_flows: frozenset[str]
    callback_urls: frozenset[str]
    logout_urls: frozenset[str]
    code_flow: bool


class MotoPools:
    """Cognito's user pools in one region."""

    def __init__(self, region: str) -> None:
        self._backend: Any = cognitoidp_backends[ACCOUNT][region]
        self._hosted: set[str] = set()

    def client(self, client_id: str) -> AppClient | None:
        """Find an app client in any pool."""
        for pool in list(self._backend.user_pools.values()):
            if (found := pool.clients.get(client_id)) is not None:
                config = found.extended_config
                return AppClient(
                    pool.id,
                    client_id,
                    found.generate_secret,
                    frozenset(config.get("ExplicitAuthFlows", ())),
                    frozenset(config.get("CallbackURLs", ())),
                    frozenset(config.get("LogoutURLs", ())),
                    config["AllowedOAuthFlowsUserPoolClient"] and "code" in config.get("AllowedOAuthFlows", ()),
                )
        return None

    def challenged_user(self, session: str) -> str | None:
        """Whose an open challenge is."""
        found = self._backend.sessions.get(session)
        return None if found is None else str(found[0])

    def password_status(self, pool_id: str, username: str, password: str) -> str:
        """The user's status (`CONFIRMED`, `FORCE_CHANGE_PASSWORD`, …) if that is the password, else ""."""
        user = self._backend.user_pools[pool_id].users.get(username)
        if user is None or not user.enabled or not hmac.compare_digest(user.password.encode(), password.encode()):
            return ""
        return str(user.status.value)

    def issue(self, client: AppClient, username: str, nonce: str) -> dict[str, Any]:
        """Tokens for a user who signed in, as the token endpoint answers: signed by the pool's key, as moto's are."""
        pool = self._backend.user_pools[client.pool_id]
        refresh_token, origin = pool.create_refresh_token(client.client_id, username)
        self._hosted.add(origin)
        access_token, seconds = pool.create_access_token(client.client_id, username, origin_jti=origin)
        more = pool.get_user_extra_data_by_client_id(client.client_id, username) | {"origin_jti": origin}
        if groups := [group.group_name for group in pool.users[username].groups]:
            more["cognito:groups"] = groups
        if nonce:
            more["nonce"] = nonce
        id_token, _ = pool.create_jwt(client.client_id, username, "id", extra_data=more)
        return {
            "id_token": id_token,
            "access_token": access_token,
            "refresh_token": refresh_token,
            "expires_in": seconds,
            "token_type": "Bearer",
        }

    def is_of_hosted_page(self, origin: str) -> bool:
        """Do tokens of this `origin_jti` go back to the hosted page? On AWS they have only the scopes asked for."""
        return origin in self._hosted

    def refresh_token_client(self, pool_id: str, refresh_token: str) -> str | None:
        """The client that a refresh token was issued to; None when it is unknown or revoked."""
        found = self._backend.user_pools[pool_id].refresh_tokens.get(refresh_token)
        return None if found is None else str(found[0])

    def refresh(self, pool_id: str, refresh_token: str) -> dict[str, Any]:
        """New tokens for a good refresh token, as the token endpoint answers."""
        pool = self._backend.user_pools[pool_id]
        access_token, id_token, seconds = pool.create_tokens_from_refresh_token(refresh_token)
        return {"id_token": id_token, "access_token": access_token, "expires_in": seconds, "token_type": "Bearer"}

    def revoke(self, pool_id: str, refresh_token: str) -> None:
        """The refresh token is good for nothing from now on."""
        self._backend.user_pools[pool_id].refresh_tokens[refresh_token] = None


def _is_root(volume: Any) -> bool:
    if volume.attachment is None:
        return False
    block = volume.attachment.instance.block_device_mapping.get(volume.attachment.device)
    return block is not None and bool(block.delete_on_termination)


def _snapshot_view(found: Any) -> SnapshotView:
    return SnapshotView(found.id, found.volume.id, found.status, found.volume_size)


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
