"""Resuming a job from its kept checkpoint: a new Batch job is submitted, and may then take the old one's volume, or its
checkpoints in a store.

Nothing of the job's environment passes through Temporal: it is read from DescribeJobs and handed to SubmitJob in here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Protocol

from sqlalchemy import Engine
from temporalio import activity

from activities import aws
from activities.ebs_answers import JOB_TAG, MANAGED_TAG, read_volume
from activities.stores import Stores
from perdure.contracts.resumption import (
    RESUME_VARIABLE,
    Resumed,
    ResumeJob,
    ResumptionActivities,
    TakenOver,
    TakeOver,
)
from perdure.domain.errors import (
    CloudUnavailable,
    ConfigurationInvalid,
    NotResumable,
    ResumptionPending,
    StoreRefused,
    UnknownJob,
    VolumeFailed,
    VolumeGone,
)
from perdure.domain.jobs import FINISHED_STATES, Job, StoredUnder
from perdure.domain.store_costs import StoreUse
from perdure.records.jobs import resumptions
from perdure.records.jobs.jobs import get_job
from perdure.records.jobs.resumptions import Resumption
from perdure.records.schema.database import reading, writing

PREDECESSOR_TAG, CHECKPOINT_TAG = "perdure:resumed-from", "perdure:checkpoint"
MOST_TAGS = 50
_ENDED = {"SUCCEEDED", "FAILED"}
_OVERRIDDEN = ("command", "resourceRequirements")
_DEFINED = (
    *("image", "command", "jobRoleArn", "executionRoleArn", "volumes", "mountPoints", "ulimits", "user", "secrets"),
    *("readonlyRootFilesystem", "privileged", "linuxParameters", "logConfiguration", "networkConfiguration"),
    *("ephemeralStorage", "runtimePlatform", "repositoryCredentials", "enableExecuteCommand"),
)
"""Of DescribeJobs' ContainerDetail, what ContainerProperties take as well. Source: Batch API reference."""
_RESERVED = "AWS_BATCH"
"""Batch refuses variables that begin like this; it sets them itself."""


class Now(Protocol):
    """The time, UTC."""

    def __call__(self) -> datetime: ...


class Resumptions(ResumptionActivities):
    """Through boto3, the stores and the records."""

    def __init__(
        self, engine: Engine, stores: Stores, batch: Any = None, ec2: Any = None, now: Now = lambda: datetime.now(UTC)
    ) -> None:
        self._engine, self._stores = engine, stores
        self._batch = batch or aws.client("batch")
        self._submitter = batch or aws.client("batch", tries=1)
        self._ec2 = ec2 or aws.client("ec2")
        self._now = now

    # ---- a new job ------------------------------------------------------------------------------------------------

    @activity.defn(name="submit_resumption")
    async def submit_resumption(self, request: ResumeJob) -> Resumed:
        """Key: (job_id, request_id). What is about to be submitted is noted first, under a name of its own: asked again
        after a lost answer, the job is found by that name instead of submitted twice (SubmitJob takes no token)."""
        job, known = await asyncio.to_thread(self._look, request.job_id)
        if known is not None and known.request_id != request.request_id:
            await self._refuse_second(known, job.queue)
            known = None
        if known is not None and known.new_job_id:
            return self._answer(job, known)
        old = await self._describe(request.job_id)
        if known is None:
            known = await self._begin(request, job, old)
        new_job_id = await self._find(known.job_name, str(old["jobQueue"])) or await self._submit(known, old)
        known = known.model_copy(update={"new_job_id": new_job_id})
        await asyncio.to_thread(self._submitted, known)
        return self._answer(job, known)

    def _look(self, job_id: str) -> tuple[Job, Resumption | None]:
        with reading(self._engine) as session:
            return get_job(session, job_id), resumptions.of_job(session, job_id)

    async def _refuse_second(self, known: Resumption, queue: str) -> None:
        """NotResumable, unless what was submitted (if anything) ended before it took the volume."""
        new_job_id = known.new_job_id or await self._find(known.job_name, queue)
        if new_job_id is None:
            return
        if known.taken_at is None:
            try:
                if (await self._describe(new_job_id))["status"] in _ENDED:
                    return
            except UnknownJob:
                return
        raise NotResumable(
            f"Job {known.job_id} was resumed already, as job {new_job_id}: look there, or resume that one."
        )

    async def _begin(self, request: ResumeJob, job: Job, old: dict[str, Any]) -> Resumption:
        """Every check, then the note of what is going to be submitted. NotResumable says what stands in the way."""
        if job.state not in FINISHED_STATES or old["status"] not in _ENDED:
            raise NotResumable(f"Job {job.job_id} has not ended ({job.state}); only a job that has can be resumed.")
        if not job.checkpoints or (job.volume_id is None and job.stored is None):
            raise NotResumable(
                f"Job {job.job_id} has no kept checkpoint. One is kept when a reclaim ends a job that has no attempt"
                " left, and in diagnosis mode."
            )
        if "arrayProperties" in old or "nodeProperties" in old or "eksProperties" in old:
            raise NotResumable(
                f"Job {job.job_id} is part of an array, has several nodes or runs on EKS: Batch could not start it anew"
                " as what it was."
            )
        checkpoint = job.checkpoints[-1].number
        if job.volume_id is not None:
            await self._check_volume(job.volume_id, {job.job_id})
        elif job.stored is not None:
            checkpoint = await asyncio.to_thread(self._newest_in, job.stored, job.job_id)
        key = hashlib.sha256(f"{job.job_id}/{request.request_id}".encode()).hexdigest()[:10]
        plain = re.sub(r"[^A-Za-z0-9_-]", "-", str(old["jobName"]))[:100]
        note = Resumption(
            job_id=job.job_id,
            request_id=request.request_id,
            job_name=f"{plain}-resumed-{key}",
            checkpoint=checkpoint,
            volume_id=job.volume_id or "",
            epoch=job.epoch,
            asked_by=request.asked_by,
            asked_at=request.asked_at,
        )
        await asyncio.to_thread(self._note, note)
        return note

    def _note(self, note: Resumption) -> None:
        with writing(self._engine) as session:
            resumptions.begin(session, note)

    async def _submit(self, note: Resumption, old: dict[str, Any]) -> str:
        wanted = submission(note, old)
        try:
            async with self._usable_definition(note, old) as wanted["jobDefinition"]:
                answer = await aws.call(f"submit job {note.job_name}", self._submitter.submit_job, **wanted)
        except VolumeFailed as problem:  # a plain no: a queue that is off, a role that may not be passed, …
            await asyncio.to_thread(self._drop, note.job_id)
            raise NotResumable(f"Job {note.job_id} cannot be resumed: {problem}") from problem
        return str(answer["jobId"])

    @contextlib.asynccontextmanager
    async def _usable_definition(self, note: Resumption, old: dict[str, Any]) -> AsyncIterator[str]:
        """The old job's definition; if its client has deregistered it, one made anew of what DescribeJobs says.

        The new one is deregistered again at once: jobs that were submitted keep it, and nothing of ours is left.
        """
        known = str(old["jobDefinition"])
        found = await aws.call(
            f"describe {known}", self._batch.describe_job_definitions, jobDefinitions=[known], status="ACTIVE"
        )
        if found["jobDefinitions"]:
            yield known
            return
        made = await aws.call(
            f"register the definition of job {note.job_id} anew",
            self._batch.register_job_definition,
            **definition(note, old),
        )
        again = str(made["jobDefinitionArn"])
        try:
            yield again
        finally:
            await aws.call(f"deregister {again}", self._batch.deregister_job_definition, jobDefinition=again)

    def _drop(self, job_id: str) -> None:
        with writing(self._engine) as session:
            resumptions.drop(session, job_id)

    def _submitted(self, note: Resumption) -> None:
        assert note.new_job_id is not None
        who = f" by {note.asked_by}" if note.asked_by else ""
        message = f"Resumed{who} as job {note.new_job_id}, from checkpoint {note.checkpoint}."
        with writing(self._engine) as session:
            resumptions.submitted(session, note.job_id, note.new_job_id, message, self._now())

    @staticmethod
    def _answer(job: Job, note: Resumption) -> Resumed:
        return Resumed(
            new_job_id=note.new_job_id or "", job_name=note.job_name, queue=job.queue, checkpoint=note.checkpoint
        )

    async def _describe(self, job_id: str) -> dict[str, Any]:
        answer = await aws.call(f"describe job {job_id}", self._batch.describe_jobs, jobs=[job_id])
        found: dict[str, Any] | None = next((one for one in answer["jobs"] if one.get("jobId") == job_id), None)
        if found is None:
            raise UnknownJob(
                f"AWS Batch has forgotten job {job_id[:80]}: what it was started with is not known any more"
            )
        return found

    async def _find(self, job_name: str, queue: str) -> str | None:
        """The job of that name, which is ours alone. With a filter ListJobs looks at every status."""
        wanted = [{"name": "JOB_NAME", "values": [job_name]}]
        answer = await aws.call(f"look for {job_name}", self._batch.list_jobs, jobQueue=queue, filters=wanted)
        return next((str(one["jobId"]) for one in answer["jobSummaryList"] if one["jobName"] == job_name), None)

    # ---- its checkpoints ------------------------------------------------------------------------------------------

    @activity.defn(name="take_over")
    async def take_over(self, request: TakeOver) -> TakenOver:
        """Key: (job_id, predecessor). NotResumable unless the control worker submitted this very job for that one."""
        job, note, line = await asyncio.to_thread(self._claim, request)
        if not note.volume_id:
            return TakenOver(
                predecessors=line,
                epoch=note.epoch,
                stored=job.stored,
                checkpoints=job.checkpoints,
                store_use=await asyncio.to_thread(self._taken, note),
            )
        volume = await self._check_volume(note.volume_id, {request.predecessor, request.job_id})
        tags = {
            JOB_TAG: request.job_id,
            PREDECESSOR_TAG: request.predecessor,
            "Name": f"perdure {request.job_id}"[:255],
        }
        await aws.call(
            f"tag {note.volume_id}",
            self._ec2.create_tags,
            Resources=[note.volume_id],
            Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
        )
        await asyncio.to_thread(self._taken, note)
        return TakenOver(predecessors=line, epoch=note.epoch, volume=read_volume(volume), checkpoints=job.checkpoints)

    def _claim(self, request: TakeOver) -> tuple[Job, Resumption, list[str]]:
        with reading(self._engine) as session:
            note = resumptions.of_job(session, request.predecessor)
            if note is None or note.new_job_id not in {None, request.job_id}:
                raise NotResumable(f"job {request.predecessor[:80]} was not resumed as this job")
            if note.new_job_id is None:
                raise ResumptionPending(
                    f"job {request.predecessor[:80]} is being resumed; as which job is not known yet"
                )
            return get_job(session, request.predecessor), note, resumptions.line_of(session, request.predecessor)

    def _taken(self, note: Resumption) -> StoreUse | None:
        with writing(self._engine) as session:
            return resumptions.taken(session, note, self._now())

    def _newest_in(self, place: StoredUnder, job_id: str) -> int:
        """The newest checkpoint that the store has. NotResumable; StoreUnavailable. Blocks."""
        try:
            numbers = self._stores.numbers(place)
        except (StoreRefused, ConfigurationInvalid) as problem:
            raise NotResumable(f"The store with job {job_id}'s checkpoints cannot be read: {problem}") from problem
        if not numbers:
            raise NotResumable(f"The store has no checkpoint of job {job_id} any more.")
        return numbers[-1]

    async def _check_volume(self, volume_id: str, owners: set[str]) -> dict[str, Any]:
        """The volume, if it is still there and one of these jobs' by its tags. NotResumable, CloudUnavailable."""
        try:
            found = await aws.call(f"describe {volume_id}", self._ec2.describe_volumes, VolumeIds=[volume_id])
        except VolumeGone as problem:
            raise NotResumable(f"Volume {volume_id} with the checkpoint no longer exists.") from problem
        except CloudUnavailable:
            raise
        volume: dict[str, Any] = found["Volumes"][0]
        tags = {one["Key"]: one["Value"] for one in volume.get("Tags", [])}
        if volume["State"] in {"deleting", "deleted", "error"}:
            raise NotResumable(f"Volume {volume_id} with the checkpoint is {volume['State']}.")
        if tags.get(MANAGED_TAG) != "true" or tags.get(JOB_TAG) not in owners:
            raise NotResumable(f"Volume {volume_id} does not bear the tags of job {min(owners)}: it is not touched.")
        return volume


def definition(note: Resumption, old: dict[str, Any]) -> dict[str, Any]:
    """RegisterJobDefinition's arguments for what DescribeJobs shows of a job of one container."""
    container = old.get("container", {})
    properties = {name: container[name] for name in _DEFINED if container.get(name)}
    properties["environment"] = [
        one for one in container.get("environment", []) if not one["name"].startswith(_RESERVED)
    ]
    named = {one["type"] for one in container.get("resourceRequirements", [])}
    older = {"VCPU": container.get("vcpus"), "MEMORY": container.get("memory")}  # what resourceRequirements replaced
    properties["resourceRequirements"] = [
        *container.get("resourceRequirements", []),
        *({"type": kind, "value": str(value)} for kind, value in older.items() if value and kind not in named),
    ]
    wanted: dict[str, Any] = {
        "jobDefinitionName": note.job_name,
        "type": "container",
        "containerProperties": properties,
        "tags": {PREDECESSOR_TAG: note.job_id},
    }
    for name in ("parameters", "platformCapabilities"):
        if old.get(name):
            wanted[name] = old[name]
    return wanted


def submission(note: Resumption, old: dict[str, Any]) -> dict[str, Any]:
    """SubmitJob's arguments for a job like the old one, by what DescribeJobs shows of it."""
    container = old.get("container", {})
    variables = {
        one["name"]: one.get("value", "")
        for one in container.get("environment", [])
        if not one["name"].startswith(_RESERVED)
    }
    variables[RESUME_VARIABLE] = note.job_id
    overrides: dict[str, Any] = {name: container[name] for name in _OVERRIDDEN if container.get(name)}
    overrides["environment"] = [{"name": name, "value": value} for name, value in variables.items()]
    ours = {PREDECESSOR_TAG: note.job_id, CHECKPOINT_TAG: str(note.checkpoint)}
    theirs = {name: value for name, value in old.get("tags", {}).items() if not name.lower().startswith("aws:")}
    wanted: dict[str, Any] = {
        "jobName": note.job_name,
        "jobQueue": old["jobQueue"],
        "jobDefinition": old["jobDefinition"],
        "containerOverrides": overrides,
        "tags": {**dict(list(theirs.items())[: MOST_TAGS - len(ours)]), **ours},
    }
    retry = {name: value for name, value in old.get("retryStrategy", {}).items() if value}
    for name, value in (
        ("retryStrategy", retry),
        ("timeout", old.get("timeout")),
        ("parameters", old.get("parameters")),
        ("shareIdentifier", old.get("shareIdentifier")),
        ("schedulingPriorityOverride", old.get("schedulingPriority")),
        ("propagateTags", old.get("propagateTags")),
    ):
        if value:
            wanted[name] = value
    return wanted
