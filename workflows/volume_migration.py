"""Brings a job volume to another zone: let go of → snapshot → volume there → the old ones deleted.

A child of the job's workflow with a page of its own in the UI. It outlives its parent's runs: half a migration would
leave the job's only checkpoint in a snapshot that nobody knows.
"""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.control import (
        CreateSnapshot,
        CreateVolume,
        DetachVolume,
        RefreshSnapshots,
        SnapshotRef,
        VolumeActivities,
        VolumeRef,
    )
    from perdure.contracts.migration import MigrationInput, MigrationResult
    from perdure.domain.volumes import SnapshotLife, client_token
    from workflows.options import LOOK, MOVE


@workflow.defn(name=names.VOLUME_MIGRATION)
class VolumeMigration:
    """One move of one volume. Each step is idempotent by a key made of the job, the epoch and the volume."""

    def __init__(self) -> None:
        self._phases: dict[str, float] = {}
        self._since = 0.0

    @workflow.run
    async def run(self, move: MigrationInput) -> MigrationResult:
        """The volume in its new zone, available. Fails with VolumeGone when there is nothing left to move."""
        old = move.volume
        self._since = workflow.time()
        letting_go = workflow.start_activity_method(
            VolumeActivities.detach_volume,
            DetachVolume(volume_id=old.volume_id, instance_id=old.attached_to, unmounted=old.unmounted),
            summary=f"wait until {old.volume_id} is available in {old.zone}",
            **MOVE,
        )
        began = workflow.now()
        # Of what its instance has unmounted, it need not wait until EC2 has detached it.
        begun = self._take_snapshot(move) if old.unmounted else None
        freed = await letting_go
        self._done("detached")
        if begun is None:
            began, begun = workflow.now(), self._take_snapshot(move)
        snapshot = await begun
        self._done("snapshot")
        volume = await workflow.execute_activity_method(
            VolumeActivities.create_volume,
            CreateVolume(
                job_id=move.job_id,
                zone=move.zone,
                volume_type=move.volume_type,
                size_gib=old.size_gib,
                options=move.options,
                token=client_token(move.job_id, move.epoch, "volume", old.volume_id, move.zone),
                snapshot_id=snapshot.snapshot_id,
                initialization_mib_per_second=move.initialization_mib_per_second,
                tags=move.tags,
            ),
            summary=f"volume from {snapshot.snapshot_id} in {move.zone}",
            **MOVE,
        )
        self._done("created")
        left_behind = await self._delete_old(move, snapshot)
        self._done("deleted")
        return MigrationResult(
            volume=volume.model_copy(update={"blank": old.blank}),
            phases=self._phases,
            left_behind=left_behind,
            forced=freed.forced,
            snapshot=SnapshotLife(
                snapshot_id=snapshot.snapshot_id,
                volume_id=old.volume_id,
                size_gib=old.size_gib,
                created_at=began,
                deleted_at=None if move.keep_snapshot or snapshot.snapshot_id in left_behind else workflow.now(),
            ),
        )

    @staticmethod
    def _take_snapshot(move: MigrationInput) -> workflow.ActivityHandle[SnapshotRef]:
        return workflow.start_activity_method(
            VolumeActivities.create_snapshot,
            CreateSnapshot(
                volume_id=move.volume.volume_id,
                job_id=move.job_id,
                token=client_token(move.job_id, move.epoch, "snapshot", move.volume.volume_id),
                tags=move.tags,
            ),
            summary=f"snapshot of {move.volume.volume_id}",
            **MOVE,
        )

    async def _delete_old(self, move: MigrationInput, snapshot: SnapshotRef) -> list[str]:
        """Delete what is no longer needed. The job waits for its volume, so this is tried for a minute at most; returns
        the ids that stay behind."""
        deletions = [self._delete_volume(move.volume.volume_id), self._delete_snapshots(move, snapshot)]
        if workflow.patched("the old volume and its snapshot go together"):
            left = await asyncio.gather(*deletions)
        else:
            left = [await deletion for deletion in deletions]
        return [one for one in left if one]

    @staticmethod
    async def _delete_volume(volume_id: str) -> str:
        try:
            await workflow.execute_activity_method(
                VolumeActivities.delete_volume,
                VolumeRef(volume_id=volume_id, job_waits=True),
                summary=f"delete {volume_id}",
                **LOOK,
            )
        except ActivityError:
            return volume_id
        return ""

    @staticmethod
    async def _delete_snapshots(move: MigrationInput, snapshot: SnapshotRef) -> str:
        try:
            if move.keep_snapshot:
                await workflow.execute_activity_method(
                    VolumeActivities.refresh_snapshots,
                    RefreshSnapshots(job_id=move.job_id, job_waits=True),
                    summary="delete the snapshots before the newest",
                    **LOOK,
                )
            else:
                await workflow.execute_activity_method(
                    VolumeActivities.delete_snapshot,
                    snapshot.model_copy(update={"job_waits": True}),
                    summary=f"delete {snapshot.snapshot_id}",
                    **LOOK,
                )
        except ActivityError:
            return snapshot.snapshot_id
        return ""

    def _done(self, step: str) -> None:
        self._phases[step] = round(workflow.time() - self._since, 3)
        self._since = workflow.time()
