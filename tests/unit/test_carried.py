"""What a job's workflow carries into its next history, and what it tells the records: brief, and nothing is lost."""

from __future__ import annotations

import json
from datetime import timedelta

from temporalio.contrib.pydantic import PydanticPayloadConverter

from perdure.contracts.control import JobRecord
from perdure.contracts.protection import AttachReply, AttachRequest, CheckpointTaken, Verdict
from perdure.domain.configuration import (
    CheckpointConfiguration,
    EffectiveConfiguration,
    JobVolumeConfiguration,
    StoreConfiguration,
)
from perdure.domain.jobs import Job
from perdure.domain.volumes import JobVolume
from tests.integration.test_records import NOW, event, full_job
from workflows.job_state import JobProgress, JobStart, Stage

CONVERTER = PydanticPayloadConverter()
CONFIGURATION = EffectiveConfiguration(
    checkpoint=CheckpointConfiguration(interval_seconds=1.5), job_volume=JobVolumeConfiguration()
)


def full_progress() -> JobProgress:
    progress = JobProgress(
        job=full_job(),
        stage=Stage.RUNNING,
        configuration=CONFIGURATION,
        reply=AttachReply(verdict=Verdict.FRESH, epoch=2, configuration=CONFIGURATION),
        request=AttachRequest(
            job_id="job-1",
            container_id="c",
            attempt=2,
            instance_id="i-2",
            zone="z",
            asked_at=NOW,
            environment={"A": ""},
        ),
        store=StoreConfiguration(),
        volume=JobVolume(volume_id="vol-1", zone="z", size_gib=1),
        look_at=NOW + timedelta(microseconds=1),
        attributes={"PerdureAttempt": 0},
    )
    progress.wishes["asked"] = None  # in place: pydantic does not see that they are set
    progress.wishes["answered"] = CheckpointTaken(failure="no")
    progress.failed_rungs[7] = 2
    progress.failed_on[7] = ["i-1"]
    progress.tell(NOW, "note", "A line.")
    return progress


def test_nothing_is_lost_between_two_histories() -> None:
    for carried in (None, JobProgress(job=Job(job_id="job-1", created_at=NOW)), full_progress()):
        start = JobStart(job_id="job-1", carried=carried)
        payload = CONVERTER.to_payload(start)
        assert payload is not None
        assert CONVERTER.from_payload(payload, JobStart) == start


def test_what_is_as_it_was_made_is_not_written() -> None:
    start = JobStart(job_id="job-1", carried=JobProgress(job=Job(job_id="job-1", created_at=NOW)))
    assert set(json.loads(start.model_dump_json())["carried"]) == {"job"}
    assert set(json.loads(start.model_dump_json())["carried"]["job"]) == {"job_id", "created_at"}


def test_the_records_hear_all_of_a_job() -> None:
    for job in (full_job(), Job(job_id="job-1", created_at=NOW)):
        record = JobRecord(job=job, events=[event(1)], revision=3)
        payload = CONVERTER.to_payload(record)
        assert payload is not None
        assert CONVERTER.from_payload(payload, JobRecord) == record


def test_a_reason_that_is_a_sentence_gets_no_second_full_stop() -> None:
    progress = JobProgress(job=full_job())
    progress.leave_unprotected("no volume could be had for it: EC2 said no.", NOW)
    progress.refuse("the job was ended by its owner", NOW)
    assert [line.message for line in progress.unrecorded] == [
        "The job runs unprotected: no volume could be had for it: EC2 said no.",
        "The container is not started: the job was ended by its owner.",
    ]
