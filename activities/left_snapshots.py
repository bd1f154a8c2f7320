"""Snapshots that nobody needs any more: those of jobs that are over. A duty of the reconciler.

A job's workflow deletes its snapshots. What it could not delete (EC2 was away, a move ended half-way) is found here, by
our tags. Only snapshots of jobs that the records call over are deleted. One whose job no record knows may belong to
another installation, or to records that were lost: it is told in the log and left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import timedelta

import structlog
from sqlalchemy import Engine
from temporalio import activity

from activities.volumes import Volumes
from perdure.contracts.control import SnapshotRef
from perdure.contracts.reconciling import LeftSnapshotActivities, Reconcile, Reconciled
from perdure.domain.errors import VolumeFailed
from perdure.records.jobs.finished_jobs import finished_among
from perdure.records.schema.database import reading

log = structlog.get_logger()

GRACE = timedelta(hours=1)
"""A younger snapshot is left alone, whatever the records say."""


class LeftSnapshots(LeftSnapshotActivities):
    """The records and EC2."""

    def __init__(self, engine: Engine, volumes: Volumes) -> None:
        self._engine, self._volumes = engine, volumes

    @activity.defn(name="reconcile_snapshots")
    async def reconcile_snapshots(self, request: Reconcile) -> Reconciled:
        """One that cannot be deleted keeps no other waiting: the next look finds it again."""
        found = [one for one in await self._volumes.our_snapshots() if one.started_at < request.now - GRACE]
        over = await asyncio.to_thread(self._over, {one.job_id for one in found})
        deleted = 0
        for snapshot in found:
            activity.heartbeat(snapshot.snapshot_id)
            state = over.get(snapshot.job_id)
            if state is None:
                log.warning(
                    "a snapshot of a job that no record knows", snapshot=snapshot.snapshot_id, job=snapshot.job_id
                )
            if not state:
                continue
            try:
                await self._volumes.delete_snapshot(SnapshotRef(snapshot_id=snapshot.snapshot_id))
            except VolumeFailed as problem:
                log.warning("a snapshot was not deleted", snapshot=snapshot.snapshot_id, reason=str(problem))
                continue
            log.info("a snapshot of a job that is over was deleted", snapshot=snapshot.snapshot_id, job=snapshot.job_id)
            deleted += 1
        return Reconciled(looked_at=len(found), told=deleted)

    def _over(self, job_ids: Collection[str]) -> dict[str, bool]:
        with reading(self._engine) as session:
            return finished_among(session, job_ids)
