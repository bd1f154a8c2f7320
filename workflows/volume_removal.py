"""Deletes one kept volume, because a person asked for it. Workflow `remove-volume/<volume id>`, started by the API."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.kept_volumes import KeptVolumeActivities, RemoveVolume, VolumeRemoved
    from workflows.job_questions import in_words
    from workflows.options import PERSON_WAITS

REMOVED_WITHIN = timedelta(seconds=40)
"""A person waits."""


@workflow.defn(name=names.VOLUME_REMOVAL)
class VolumeRemoval:
    """One at a time for each volume."""

    @workflow.run
    async def run(self, request: RemoveVolume) -> VolumeRemoved:
        """Whether it is gone, or in words why not. Never fails."""
        try:
            return await workflow.execute_activity_method(
                KeptVolumeActivities.remove_volume,
                request,
                summary=f"delete {request.volume_id}, for {request.asked_by}"[:200],
                start_to_close_timeout=timedelta(seconds=30),
                schedule_to_close_timeout=REMOVED_WITHIN,
                retry_policy=PERSON_WAITS,
            )
        except ActivityError as problem:
            return VolumeRemoved(volume_id=request.volume_id, refusal=in_words(problem))
