"""Volumes of jobs that are over: who deletes one, and when.

A job's own workflow deletes its volume, unless it is kept for a reason. After that workflow nobody looks after the
volume any more: so it has an end, `server.keep_volume_seconds` after the job's, and a person may delete it before.
"""

from __future__ import annotations

from datetime import datetime

from temporalio import activity

from perdure.contracts.reconciling import Reconcile, Reconciled
from perdure.domain.values import Frozen


class RemoveVolume(Frozen):
    """Delete this kept volume for `asked_by`. Key: volume_id. `asked_at` UTC."""

    volume_id: str
    asked_by: str = ""
    asked_at: datetime


class VolumeRemoved(Frozen):
    """`refusal`: why not, a sentence for people; empty: it is gone."""

    volume_id: str
    job_id: str = ""
    refusal: str = ""


class KeptVolumeActivities:
    """The control worker's part. Both delete only what bears our tags and the job's, and is attached to nothing."""

    @activity.defn(name="reconcile_volumes")
    async def reconcile_volumes(self, request: Reconcile) -> Reconciled:
        """Every kept volume whose time is over. A volume that cannot be deleted is looked at again by the next call.
        Key: `now`. CloudUnavailable."""
        raise NotImplementedError

    @activity.defn(name="remove_volume")
    async def remove_volume(self, request: RemoveVolume) -> VolumeRemoved:
        """Key: volume_id; one that AWS does not have any more is a deleted one. UnknownVolume; VolumeInUse: by whom;
        VolumeForeign; CloudUnavailable."""
        raise NotImplementedError
