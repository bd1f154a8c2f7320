"""Orphans in AWS: found by our tags every hour, deleted when their grace is over. A duty of the reconciler.

A job's workflow deletes its volumes and snapshots. What it could not delete (EC2 was away, a move ended half-way, a
control worker died between a call and its answer) is found here. `perdure.domain.orphans` decides whose each thing is;
`Volumes` looks at the tags once more before it deletes one. Nothing is deleted at first sight: it must have been an
orphan, at each look, for `server.orphan_grace_seconds`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Engine
from temporalio import activity

from activities.batch import BatchLookups
from activities.volumes import Volumes
from perdure.contracts.control import SnapshotRef, VolumeRef
from perdure.contracts.orphans import FindOrphans, OrphanActivities, OrphansFound
from perdure.contracts.reconciling import Reconcile, Reconciled
from perdure.domain.errors import VolumeFailed
from perdure.domain.orphans import JobTrace, KnownOrphan, Orphan, OrphanKind, Tagged, judge, sums_of
from perdure.records.jobs import orphans
from perdure.records.schema.database import reading, writing
from perdure.records.settings.configuration import current_configuration

log = structlog.get_logger()
MOST_DELETED = 200
"""At one look: all jobs share the calls that this takes."""
MOST_SHOWN = 1000


class Orphans(OrphanActivities):
    """The records, EC2 and Batch."""

    def __init__(self, engine: Engine, volumes: Volumes, batch: BatchLookups) -> None:
        self._engine, self._volumes, self._batch = engine, volumes, batch

    @activity.defn(name="reconcile_snapshots")
    async def reconcile_orphans(self, request: Reconcile) -> Reconciled:
        """One that cannot be deleted keeps no other waiting: the next look finds it again."""
        things = await self._volumes.tagged()
        found = await self._orphans(things)
        known, grace = await asyncio.to_thread(self._note, found, request.now)
        due = [one for one in known if not one.orphan.refusal and grace and one.found_at <= request.now - grace]
        deleted = 0
        for one in due[:MOST_DELETED]:
            activity.heartbeat(one.orphan.thing.resource_id)
            deleted += await self._delete(one.orphan, request.now)
        for one in known:
            if one.orphan.refusal and one.found_at == request.now:
                log.warning("an orphan is left alone", **_in_log(one.orphan), left_because=one.orphan.refusal)
        return Reconciled(looked_at=len(things), told=deleted)

    @activity.defn(name="find_orphans")
    async def find_orphans(self, request: FindOrphans) -> OrphansFound:
        """As the next look of the reconciler will see them. Nothing is deleted, nothing is written."""
        found = await self._orphans(await self._volumes.tagged())
        return await asyncio.to_thread(self._price, found, request.now)

    async def _orphans(self, things: Sequence[Tagged]) -> list[Orphan]:
        known = await asyncio.to_thread(self._traces, {one.job_id for one in things})
        strangers = sorted({one.job_id for one in things if one.job_id and one.job_id not in known})
        at_batch = await self._batch.statuses(strangers) if strangers else {}
        installation = self._volumes.installation
        judged = (judge(one, installation, known.get(one.job_id), at_batch.get(one.job_id)) for one in things)
        return [one for one in judged if one is not None]

    async def _delete(self, orphan: Orphan, now: datetime) -> bool:
        thing = orphan.thing
        try:
            if thing.kind is OrphanKind.VOLUME:
                await self._volumes.delete_volume(VolumeRef(volume_id=thing.resource_id))
            else:
                await self._volumes.delete_snapshot(SnapshotRef(snapshot_id=thing.resource_id))
        except VolumeFailed as problem:
            log.warning("an orphan was not deleted", **_in_log(orphan), problem=str(problem))
            return False
        await asyncio.to_thread(self._deleted, orphan, now)
        log.info("an orphan was deleted", **_in_log(orphan))
        return True

    def _traces(self, job_ids: set[str]) -> dict[str, JobTrace]:
        with reading(self._engine) as session:
            return orphans.traces(session, job_ids)

    def _note(self, found: list[Orphan], now: datetime) -> tuple[list[KnownOrphan], timedelta]:
        with writing(self._engine) as session:
            grace = timedelta(seconds=current_configuration(session).server.orphan_grace_seconds)
            return orphans.note(session, found, now), grace

    def _deleted(self, orphan: Orphan, now: datetime) -> None:
        with writing(self._engine) as session:
            orphans.deleted(session, orphan, now)

    def _price(self, found: list[Orphan], now: datetime) -> OrphansFound:
        with reading(self._engine) as session:
            since = orphans.found_since(session)
            known = [KnownOrphan(orphan=one, found_at=since.get(one.thing.resource_id, now)) for one in found]
            priced = orphans.priced(session, known, now)
        priced.sort(key=lambda one: -(one.month_micros or 0))
        return OrphansFound(items=priced[:MOST_SHOWN], totals=sums_of(priced))


def _in_log(orphan: Orphan) -> dict[str, str]:
    thing = orphan.thing
    return {"orphan": thing.resource_id, "job": thing.job_id, "reason": orphan.reason}
