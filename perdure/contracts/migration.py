"""Input and result of the volume migration workflow: a job volume is brought to another zone."""

from __future__ import annotations

from pydantic import Field

from perdure.domain.values import Frozen
from perdure.domain.volumes import JobVolume, SnapshotLife, VolumeOptions


class MigrationInput(Frozen):
    """Bring `volume` (available or held by an instance that is gone) to `zone`. Key: (job_id, epoch)."""

    job_id: str
    epoch: int
    volume: JobVolume
    zone: str
    volume_type: str
    options: VolumeOptions = VolumeOptions()
    initialization_mib_per_second: int = 0
    keep_snapshot: bool = False
    """The snapshot stays: the next one of the new volume then holds only what changed. All older ones of the job go."""
    tags: dict[str, str] = Field(default_factory=dict)


class MigrationResult(Frozen):
    """The volume in its new zone; seconds by step (detached, snapshot, created, deleted); the snapshot's life.

    `left_behind`: ids of an old volume or snapshot that could not be deleted; the reconciler finds them by their tags.
    """

    volume: JobVolume
    phases: dict[str, float] = Field(default_factory=dict)
    left_behind: list[str] = Field(default_factory=list)
    snapshot: SnapshotLife | None = None
    forced: bool = False
    """The old volume hung at its instance, which had unmounted it, and was taken by force."""
