"""The end of jobs' checkpoints in a store: with their job, or, where they were kept, when their time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import structlog
from sqlalchemy import Engine
from temporalio import activity

from activities.batch import BatchLookups
from perdure.contracts.reconciling import Reconcile, Reconciled
from perdure.contracts.stores import ForgetCheckpoints, Forgotten, StoreActivities
from perdure.domain.errors import ConfigurationInvalid, ImageInvalid, StoreFailed
from perdure.domain.jobs import StoredUnder
from perdure.domain.store_costs import StoreUse
from perdure.domain.values import format_duration
from perdure.records.costs.store_uses import newest_held
from perdure.records.jobs import kept_checkpoints
from perdure.records.jobs.kept_checkpoints import KeptCheckpoints
from perdure.records.jobs.ledger_refresh import told_of_use
from perdure.records.schema.database import reading, writing
from perdure.records.settings.configuration import current_configuration
from perdure.stores.opening import open_store, read_key
from perdure.stores.patience import Patient
from perdure.stores.stored_checkpoints import StoredCheckpoints

log = structlog.get_logger()
T = TypeVar("T")
PAGE = 100
_BEAT = 10.0
"""Seconds between heartbeats."""


class _Gone(NamedTuple):
    """How many checkpoints a job had, what was asked of the store, and what siblings that are over hold there still."""

    checkpoints: int
    use: StoreUse
    siblings: dict[str, int]


class Stores(StoreActivities):
    """See perdure.contracts.stores. The server reaches a store as instances do: by the same path, or its own role."""

    def __init__(self, engine: Engine, key_file: Path, batch: BatchLookups) -> None:
        self._engine = engine
        self._key_file = key_file
        self._batch = batch

    @activity.defn(name="forget_checkpoints")
    async def forget_checkpoints(self, request: ForgetCheckpoints) -> Forgotten:
        """Idempotent by job and store."""
        place = StoredUnder(store=request.store, job_id=request.job_id)
        gone = await _beating(lambda: self._forget(place, datetime.now(UTC)))
        await asyncio.to_thread(self._tell_siblings, place.job_id, gone)
        return Forgotten(checkpoints=gone.checkpoints, store_use=gone.use)

    @activity.defn(name="reconcile_stores")
    async def reconcile_stores(self, request: Reconcile) -> Reconciled:
        """By `server.keep_volume_seconds` of the configuration as it is; 0: they are kept until a person deletes them.
        Those that cannot be deleted keep no others waiting."""
        looked_at, told, after = 0, 0, ""
        seconds = await asyncio.to_thread(self._kept_seconds)
        if not seconds:
            return Reconciled()
        while some := await asyncio.to_thread(self._past_their_time, seconds, request.now, after):
            for kept in some:
                told += await self._ended(kept, seconds, request.now)
            looked_at, after = looked_at + len(some), some[-1].job_id
        return Reconciled(looked_at=looked_at, told=told)

    async def _ended(self, kept: KeptCheckpoints, seconds: float, now: datetime) -> bool:
        """Their time is over; whether they are gone. From the claim on nothing is resumed from them; a control worker
        that dies then deletes them at the next look."""
        if kept.successor is not None and await self._batch.goes_on(kept.successor):
            return False
        if not await asyncio.to_thread(self._claim, kept, now):
            return False
        try:
            gone = await _beating(lambda: self._forget(kept.stored, now))
        except (StoreFailed, ConfigurationInvalid, ImageInvalid, OSError) as problem:
            await asyncio.to_thread(self._release, kept)
            log.warning("kept checkpoints were not deleted", job_id=kept.job_id, reason=str(problem))
            return False
        await asyncio.to_thread(self._tell_siblings, kept.stored.job_id, gone)
        kept_for = format_duration(round(seconds))
        message = (
            f"The job's checkpoints ({gone.checkpoints}) are deleted from the store: they had been kept for {kept_for}"
            " after the job's end (server.keep_volume_seconds). The job cannot be resumed any more."
        )
        await asyncio.to_thread(self._record, kept, gone.use, message, now)
        return True

    def numbers(self, place: StoredUnder) -> list[int]:
        """Of the checkpoints that lie there. The store's errors. Blocks."""
        with closing(open_store(place.store)) as store:
            return self._checkpoints(store, place).numbers()

    def _forget(self, place: StoredUnder, at: datetime) -> _Gone:
        with closing(open_store(place.store)) as store:
            stored = self._checkpoints(store, place)
            count = len(stored.numbers())
            stored.forget()
            return _Gone(count, stored.use(f"forgotten/{at:%Y-%m-%dT%H:%M:%S.%f}", at), stored.over_siblings())

    def _tell_siblings(self, job_id: str, gone: _Gone) -> None:
        """Packs of siblings that were over already went with this job: they cost nothing from now on."""
        for sibling, held in gone.siblings.items():
            with writing(self._engine) as session:
                before = newest_held(session, sibling)
                if before is not None and before.held_bytes != held:
                    changes = {"use_id": f"{job_id} forgotten", "at": gone.use.at, "held_bytes": held}
                    nothing_asked = {"writes": 0, "reads": 0, "key_requests": 0}
                    told_of_use(session, sibling, before.model_copy(update=changes | nothing_asked))

    def _checkpoints(self, store: Patient, place: StoredUnder) -> StoredCheckpoints:
        return StoredCheckpoints(store, place.job_id, key=read_key(place.store, self._key_file))

    def _kept_seconds(self) -> float:
        with reading(self._engine) as session:
            return current_configuration(session).server.keep_volume_seconds

    def _past_their_time(self, seconds: float, now: datetime, after: str) -> list[KeptCheckpoints]:
        with reading(self._engine) as session:
            return kept_checkpoints.checkpoints_past_their_time(session, seconds, now, after, PAGE)

    def _claim(self, kept: KeptCheckpoints, at: datetime) -> bool:
        with writing(self._engine) as session:
            return kept_checkpoints.claim(session, kept, at)

    def _release(self, kept: KeptCheckpoints) -> None:
        with writing(self._engine) as session:
            kept_checkpoints.release(session, kept)

    def _record(self, kept: KeptCheckpoints, use: StoreUse, message: str, at: datetime) -> None:
        with writing(self._engine) as session:
            kept_checkpoints.forgotten(session, kept, use, message, at)


async def _beating(work: Callable[[], T]) -> T:
    """Blocking work in a thread, with heartbeats meanwhile."""
    task = asyncio.create_task(asyncio.to_thread(work))
    while not task.done():
        activity.heartbeat()
        await asyncio.wait([task], timeout=_BEAT)
    return task.result()
