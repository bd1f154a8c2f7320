"""What a job's workflow asks of a store once the job is over. Stub only."""

from __future__ import annotations

from pydantic import Field
from temporalio import activity

from perdure.domain.configuration import StoreConfiguration
from perdure.domain.values import Frozen


class ForgetCheckpoints(Frozen):
    """Delete everything that this store holds for the job, but for what siblings of its array still need. Key: job_id
    and store: what is gone is gone."""

    job_id: str
    store: StoreConfiguration


class Forgotten(Frozen):
    """How many checkpoints went."""

    checkpoints: int = Field(0, ge=0)


class StoreActivities:
    """The control worker's part."""

    @activity.defn(name="forget_checkpoints")
    async def forget_checkpoints(self, request: ForgetCheckpoints) -> Forgotten:
        """Idempotent. StoreFailed: what is left still takes space, and a later try takes it up."""
        raise NotImplementedError
