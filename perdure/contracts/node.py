"""What the control plane can ask of the agent on an instance, served on the queue `node-<instance>`.

Stubs only: the agent subclasses them, so that a sandboxed workflow can call what it cannot import.
"""

from __future__ import annotations

from temporalio import activity

from perdure.domain.checkpoints import Checkpoint
from perdure.domain.configuration import CheckpointConfiguration, LogConfiguration
from perdure.domain.nodes import Notice
from perdure.domain.retries import HandOver
from perdure.domain.values import Frozen


class CheckpointRequest(Frozen):
    """Take a checkpoint of the job's container now, because a person wants one. Key: (job_id, epoch, request_id):
    asked again, the answer is the same checkpoint. One that is running now is joined, whoever began it."""

    job_id: str
    epoch: int
    request_id: str


class CheckpointSettings(Frozen):
    """How checkpoints are taken of the job's container from now on: the rhythm is the agent's to keep.

    Key: (job_id, epoch, number). `number` rises with each change; the plan that `attach` answered has one too.
    """

    job_id: str
    epoch: int
    number: int
    checkpoint: CheckpointConfiguration


class FinalCheckpointRequest(Frozen):
    """Take, or join, the final checkpoint that the agent began on a notice, and hand the job over.

    Key: (job_id, epoch).
    `hand_over` is the workflow's wish; the agent takes way STAY_FROZEN when other jobs or a fault forbid it.
    """

    job_id: str
    epoch: int
    notice: Notice
    hand_over: HandOver


class CheckpointOutcome(Frozen):
    """A committed checkpoint, or why there is none (the job then runs on). `handed_over` after a final one only.
    `ended`: there is none because the job had ended, which is no failure."""

    checkpoint: Checkpoint | None = None
    failure: str = ""
    handed_over: HandOver | None = None
    ended: bool = False


class LogSettings(Frozen):
    """How the agent is to log. Key: `number`, that of the configuration; the same again changes nothing."""

    number: int
    section: LogConfiguration


class NodeActivities:
    """Activities of one node. Each is join-or-start: asked twice, it attaches to what already runs."""

    @activity.defn(name="checkpoint")
    async def checkpoint(self, request: CheckpointRequest) -> CheckpointOutcome:
        """Freeze, dump, clone, resume, commit. Idempotent by (job_id, epoch, request_id). Fenced for an older epoch."""
        raise NotImplementedError

    @activity.defn(name="apply_checkpoint_settings")
    async def apply_checkpoint_settings(self, settings: CheckpointSettings) -> None:
        """The agent's own loop goes by them from now on. Idempotent by number: an older one changes nothing. A
        container that is not there (any more) needs none. Fenced for an older epoch."""
        raise NotImplementedError

    @activity.defn(name="apply_log_settings")
    async def apply_log_settings(self, settings: LogSettings) -> None:
        """The agent logs by them from now on. Idempotent by number: an older one changes nothing."""
        raise NotImplementedError

    @activity.defn(name="hear_notice")
    async def hear_notice(self, notice: Notice) -> None:
        """What AWS announced by an event: the agent does as if the metadata service had told it. Key: the announcement;
        one that it knows, from whichever source, changes nothing."""
        raise NotImplementedError

    @activity.defn(name="final_checkpoint")
    async def final_checkpoint(self, request: FinalCheckpointRequest) -> CheckpointOutcome:
        """The checkpoint after which the job is not resumed, then the hand-over. Idempotent by (job_id, epoch)."""
        raise NotImplementedError
