"""Kept volumes are deleted: when their time is over, or because a person asked. Never one that is in use.

In use is what EC2 shows as attached to an instance, whose job is not over, or which a resumed job is about to take. A
volume without our tags, or with another job's, is not touched (activities/volumes.py).
"""

from __future__ import annotations

import asyncio
from datetime import datetime

import structlog
from sqlalchemy import Engine
from temporalio import activity

from activities.batch import BatchLookups
from activities.volumes import Volumes
from perdure.contracts.control import VolumeRef
from perdure.contracts.kept_volumes import KeptVolumeActivities, RemoveVolume, VolumeRemoved
from perdure.contracts.reconciling import Reconcile, Reconciled
from perdure.domain.errors import VolumeFailed, VolumeGone, VolumeInUse
from perdure.domain.values import format_duration
from perdure.records.jobs import kept_volumes
from perdure.records.jobs.kept_volumes import KeptVolume
from perdure.records.schema.database import reading, writing
from perdure.records.settings.configuration import current_configuration

log = structlog.get_logger()
PAGE = 100


class KeptVolumes(KeptVolumeActivities):
    """The records, EC2 and Batch."""

    def __init__(self, engine: Engine, volumes: Volumes, batch: BatchLookups) -> None:
        self._engine = engine
        self._volumes = volumes
        self._batch = batch

    @activity.defn(name="reconcile_volumes")
    async def reconcile_volumes(self, request: Reconcile) -> Reconciled:
        """By `server.keep_volume_seconds` of the configuration as it is; 0: they are kept until a person deletes them.
        One that cannot be deleted keeps no other waiting."""
        looked_at, told, after = 0, 0, ""
        seconds = await asyncio.to_thread(self._kept_seconds)
        if not seconds:
            return Reconciled()
        kept_for = format_duration(round(seconds))
        said = f"it had been kept for {kept_for} after the job's end (server.keep_volume_seconds)"
        while some := await asyncio.to_thread(self._past_their_time, seconds, request, after):
            activity.heartbeat(after)
            for volume in some:
                try:
                    await self._remove(volume, request.now)
                except (VolumeInUse, VolumeFailed) as problem:
                    log.warning("a kept volume was not deleted", volume=volume.volume_id, reason=str(problem))
                    continue
                message = f"Volume {volume.volume_id} is deleted: {said}. The job cannot be resumed any more."
                await asyncio.to_thread(self._record, volume, message, request.now)
                told += 1
            looked_at, after = looked_at + len(some), some[-1].volume_id
        return Reconciled(looked_at=looked_at, told=told)

    @activity.defn(name="remove_volume")
    async def remove_volume(self, request: RemoveVolume) -> VolumeRemoved:
        """For a person. The job's timeline names who it was."""
        volume = await asyncio.to_thread(self._find, request.volume_id)
        await self._remove(volume, request.asked_at)
        who = f" by {request.asked_by}" if request.asked_by else ""
        message = f"Volume {volume.volume_id} is deleted{who}. The job cannot be resumed any more."
        await asyncio.to_thread(self._record, volume, message, request.asked_at)
        return VolumeRemoved(volume_id=volume.volume_id, job_id=volume.job_id)

    async def _remove(self, volume: KeptVolume, at: datetime) -> None:
        """VolumeInUse: who needs it. From the claim on nothing is resumed from it; a control worker that dies then
        deletes it at the next look."""
        if volume.finished_at is None:
            raise VolumeInUse(
                f"{volume.volume_id} is the volume of job {volume.job_id}, which is not over: it goes with the job."
            )
        if volume.successor is not None and await self._batch.goes_on(volume.successor):
            as_which = f"as job {volume.successor}, which" if volume.successor else "as a job that"
            raise VolumeInUse(
                f"{volume.volume_id} is needed: job {volume.job_id} is being resumed {as_which} will take it."
            )
        try:
            holder = await self._volumes.holder(volume.volume_id, volume.job_id)
        except VolumeGone:
            return
        if holder is not None:
            raise VolumeInUse(f"{volume.volume_id} is attached to {holder}: detach it there first.")
        await asyncio.to_thread(self._claim, volume, at)
        try:
            await self._volumes.delete_volume(VolumeRef(volume_id=volume.volume_id))
        except VolumeFailed:
            await asyncio.to_thread(self._release, volume)
            raise

    def _kept_seconds(self) -> float:
        with reading(self._engine) as session:
            return current_configuration(session).server.keep_volume_seconds

    def _past_their_time(self, seconds: float, request: Reconcile, after: str) -> list[KeptVolume]:
        with reading(self._engine) as session:
            return kept_volumes.volumes_past_their_time(session, seconds, request.now, after, PAGE)

    def _find(self, volume_id: str) -> KeptVolume:
        with reading(self._engine) as session:
            return kept_volumes.find_volume(session, volume_id)

    def _claim(self, volume: KeptVolume, at: datetime) -> None:
        with writing(self._engine) as session:
            kept_volumes.claim(session, volume, at)

    def _release(self, volume: KeptVolume) -> None:
        with writing(self._engine) as session:
            kept_volumes.release(session, volume)

    def _record(self, volume: KeptVolume, message: str, at: datetime) -> None:
        with writing(self._engine) as session:
            kept_volumes.removed(session, volume, message, at)
