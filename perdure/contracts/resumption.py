"""Going on from the kept checkpoint of a job that ended, in a new Batch job.

    person → API → workflow `resume/<old id>` → control activity `submit_resumption` → Batch: a new job
    its container → agent → `attach` with RESUME_VARIABLE → workflow `batch-job/<new id>` → `take_over` → volume, store

The variable alone gives no right to anything: `take_over` looks for the control worker's own record of that very pair
of jobs, and at the volume's tag.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import Field
from temporalio import activity

from perdure.domain.checkpoints import Checkpoint
from perdure.domain.jobs import StoredUnder
from perdure.domain.store_costs import StoreUse
from perdure.domain.values import Frozen
from perdure.domain.volumes import JobVolume

RESUME_VARIABLE = "PERDURE_RESUME_FROM"
"""In the new job's environment: the id of the job that it goes on from."""


class ResumeJob(Frozen):
    """Submit a job that goes on from `job_id`'s newest kept checkpoint. Key: (job_id, request_id). `asked_at` UTC."""

    job_id: str
    request_id: str
    asked_by: str = ""
    asked_at: datetime


class Resumed(Frozen):
    """The new job, or why there is none (`refusal`, a sentence for people)."""

    new_job_id: str = ""
    job_name: str = ""
    queue: str = ""
    checkpoint: int = 0
    refusal: str = ""


class TakeOver(Frozen):
    """A container of `job_id` says that it goes on from `predecessor`. Key: both."""

    job_id: str
    predecessor: str


class TakenOver(Frozen):
    """What the new job inherits: a volume, or checkpoints in a store. `predecessors`: every job whose checkpoints may
    lie there, newest first. `epoch`: the last that was given; the new job's go on from there."""

    predecessors: list[str]
    epoch: int
    volume: JobVolume | None = None
    stored: StoredUnder | None = None
    checkpoints: list[Checkpoint] = Field(default_factory=list)
    store_use: StoreUse | None = None
    """What lies in the store, and costs this job from now on."""


class ResumptionActivities:
    """The control worker's part."""

    @activity.defn(name="submit_resumption")
    async def submit_resumption(self, request: ResumeJob) -> Resumed:
        """Idempotent by (job_id, request_id): the job's name tells whether it was submitted. NotResumable: why not."""
        raise NotImplementedError

    @activity.defn(name="take_over")
    async def take_over(self, request: TakeOver) -> TakenOver:
        """Make the predecessor's volume, or its checkpoints in a store, this job's. Idempotent. NotResumable: nobody
        allowed that. VolumeGone."""
        raise NotImplementedError
