"""What is asked of a store once a job is over. Stubs only.

A job's own workflow deletes its checkpoints, unless they are kept for a reason. After that workflow nobody looks after
them any more: so they have an end, `server.keep_volume_seconds` after the job's, as a kept volume has.
"""

from __future__ import annotations

from pydantic import Field
from temporalio import activity

from perdure.contracts.reconciling import Reconcile, Reconciled
from perdure.domain.configuration import StoreConfiguration
from perdure.domain.store_costs import StoreUse
from perdure.domain.values import Frozen


class ForgetCheckpoints(Frozen):
    """Delete everything that this store holds under the job's id, but for what siblings of its array still need.
    Key: job_id and store: what is gone is gone."""

    job_id: str
    store: StoreConfiguration


class Forgotten(Frozen):
    """How many checkpoints went, and what was asked of the store for it."""

    checkpoints: int = Field(0, ge=0)
    store_use: StoreUse | None = None


class StoreActivities:
    """The control worker's part."""

    @activity.defn(name="forget_checkpoints")
    async def forget_checkpoints(self, request: ForgetCheckpoints) -> Forgotten:
        """Idempotent. StoreFailed: what is left still takes space, and a later try takes it up."""
        raise NotImplementedError

    @activity.defn(name="reconcile_stores")
    async def reconcile_stores(self, request: Reconcile) -> Reconciled:
        """Delete all kept checkpoints whose time is over. A store that does not answer is asked again by the next call.
        Key: `now`. CloudUnavailable."""
        raise NotImplementedError
