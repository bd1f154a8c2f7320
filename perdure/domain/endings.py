"""How a container of a job ended, as far as both sides know, and what the next one may therefore start from."""

from __future__ import annotations

from perdure.domain.retries import ENDED_BY_US
from perdure.domain.values import Frozen

HOST_LOST = "Host EC2"
"""How Batch's status reason begins when the instance was lost: `Host EC2 (instance i-…) terminated.`"""


class Ending(Frozen):
    """The end of one container. The first three are what its node told us; the others what Batch's attempt shows."""

    started: bool = False
    handed_over: bool = False
    exit_reported: bool = False
    exit_code: int | None = None
    reason: str | None = None
    status_reason: str | None = None

    @property
    def host_lost(self) -> bool:
        """Batch blames the instance."""
        return (self.status_reason or "").startswith(HOST_LOST)


def ended_by_itself(ending: Ending) -> bool:
    """Did the job itself end (its own failure), so that the next attempt starts clean instead of going on?

    Batch's word about a lost host outranks our node's: a machine that shuts down stops its containers, and the agent
    sees them exit. Exit code 137 that no agent reported is taken as ours: an agent out of reach of Temporal may have
    handed the job over and died with its report unsent; out of memory has a reason of its own.
    """
    if ending.handed_over or ending.host_lost:
        return False
    if ending.exit_code is None:
        return ending.exit_reported and ending.started
    out_of_memory = (ending.reason or "").startswith("OutOfMemory")
    return ending.exit_reported or out_of_memory or ending.exit_code != ENDED_BY_US
