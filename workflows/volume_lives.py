"""When a job's volumes were made and deleted, as people see it, and for what they cost. Pure: time is an argument."""

from __future__ import annotations

from datetime import datetime

from perdure.domain.volumes import JobVolume, VolumeLife, VolumeOptions
from workflows.job_state import JobProgress


def began(progress: JobProgress, volume: JobVolume, volume_type: str, made_with: VolumeOptions, now: datetime) -> None:
    """A volume was made for the job; told twice, it is noted once."""
    if any(one.volume_id == volume.volume_id for one in progress.job.volumes):
        return
    life = VolumeLife(
        volume_id=volume.volume_id,
        zone=volume.zone,
        volume_type=volume.volume_type or volume_type,
        size_gib=volume.size_gib,
        iops=volume.iops or made_with.iops,
        throughput_mib_per_second=volume.throughput_mib_per_second or made_with.throughput_mib_per_second,
        created_at=volume.created_at or now,
    )
    progress.show(volumes=[*progress.job.volumes, life])


def ended(progress: JobProgress, volume_id: str, now: datetime) -> None:
    """A volume of the job is no more."""
    progress.show(
        volumes=[
            one.model_copy(update={"deleted_at": now}) if one.volume_id == volume_id and not one.deleted_at else one
            for one in progress.job.volumes
        ]
    )
