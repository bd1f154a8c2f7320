"""Log bundles: asked of a living node, and kept by the control plane for the time after it.

A bundle is a zip archive. It travels inside Temporal messages, whose payloads may have 2 MB, so its size is bounded at
its source (bytes, before base64 makes them a third longer).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import ConfigDict, Field
from temporalio import activity

from perdure.domain.values import Frozen

LARGEST_BUNDLE = 1 << 20
"""Bytes of a bundle that a person asks a node for."""
LARGEST_KEPT = 384 << 10
"""Bytes of a bundle that a node sends by itself."""


class _WithBytes(Frozen):
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_bytes="base64", val_json_bytes="base64")


class CollectLogs(Frozen):
    """Ask a node for its logs, or (with `job_id`) for those of one job. Read-only: safe to be asked again.

    `containers`: ids of the job's containers on that node, as far as known; their logs of failures are found by them.
    """

    instance_id: str
    job_id: str = ""
    containers: list[str] = Field(default_factory=list)


class CollectedLogs(_WithBytes):
    """A bundle of at most LARGEST_BUNDLE bytes, or why there is none (`failure`, a sentence for people)."""

    content: bytes = b""
    failure: str = ""


class KeptKind(StrEnum):
    """Why a node sent a bundle by itself."""

    EXIT = "exit"
    HAND_OVER = "hand-over"
    FAILED_CHECKPOINT = "failed-checkpoint"
    FAILED_RESTORE = "failed-restore"
    NOTICE = "notice"


class KeepLogs(_WithBytes):
    """A bundle to keep. `key` makes it idempotent. Of a whole node: `job_id` is empty and `epoch` 0. `at` is UTC."""

    key: str
    job_id: str = ""
    instance_id: str
    epoch: int = 0
    kind: KeptKind
    at: datetime
    content: bytes


class LogActivities:
    """What the agent on an instance answers, on the queue `node-<instance>`."""

    @activity.defn(name="collect_logs")
    async def collect_logs(self, request: CollectLogs) -> CollectedLogs:
        """Read-only; asked twice, it looks twice."""
        raise NotImplementedError


class LogKeepingActivities:
    """What the control worker does with bundles."""

    @activity.defn(name="keep_logs")
    async def keep_logs(self, bundle: KeepLogs) -> None:
        """Store it; the oldest of the same job (or node) go. Idempotent by key."""
        raise NotImplementedError
