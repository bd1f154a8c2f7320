"""The records on SQLite and on PostgreSQL: mapping, keys, paging, migrations, several writers."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import SQLModel

from perdure.domain.checkpoints import Checkpoint, CheckpointKind, Rehearsal, RehearsalVerdict
from perdure.domain.configuration import CheckpointConfiguration, StoreConfiguration, SystemConfiguration
from perdure.domain.errors import ConfigurationInvalid, UnknownJob, UnknownNode
from perdure.domain.jobs import Attempt, Job, JobEvent, JobState, Outage, StoredUnder
from perdure.domain.nodes import Node, NodeState, Notice, NoticeKind
from perdure.domain.retries import RetryRule, RetryStrategy
from perdure.domain.volumes import SnapshotLife, VolumeLife
from perdure.records.jobs import jobs
from perdure.records.jobs.events import list_events
from perdure.records.jobs.job_lists import list_jobs
from perdure.records.nodes import nodes
from perdure.records.schema import tables
from perdure.records.schema.database import migrate, open_engine, reading, write_connection, writing
from perdure.records.schema.pages import Keyset
from perdure.records.settings import configuration
from tests.integration.schema import differences
from tests.patience import PATIENCE

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def checkpoint(number: int, epoch: int = 1) -> Checkpoint:
    return Checkpoint(
        number=number,
        kind=CheckpointKind.PERIODIC,
        epoch=epoch,
        frozen_at=NOW + timedelta(seconds=number),
        committed_at=NOW + timedelta(seconds=number + 1),
        image_bytes=1 << 40,
        phases={"pause": 0.1, "dump": 1.5, "clone": 0.0},
        cpu_features="avx avx2",
    )


def full_job(job_id: str = "job-1", **changes: object) -> Job:
    """A job in which no field has its default."""
    job = Job(
        job_id=job_id,
        name="align",
        queue="default",
        state=JobState.RUNNING,
        batch_status="RUNNING",
        exit_code=3,
        vcpus=0.5,
        memory_mib=2048,
        created_at=NOW,
        changed_at=NOW + timedelta(hours=2),
        finished_at=NOW + timedelta(hours=1),
        timeout_seconds=3600,
        retry=RetryStrategy(attempts=3, rules=[RetryRule(action="RETRY", on_status_reason="Host EC2*")]),
        interval_seconds=2.5,
        interval_source="PERDURE_CHECKPOINT_INTERVAL",
        diagnosis=True,
        epoch=2,
        attempts=[
            Attempt(
                epoch=epoch,
                attempt=epoch,
                instance_id=f"i-{epoch}",
                zone="us-east-1a",
                container_id="c" * 64,
                accepted_at=NOW,
                started_at=NOW + timedelta(seconds=1),
                restored_from=7,
                ended_at=NOW + timedelta(seconds=2),
                end="handed over",
                restore_failures=1,
                batch_started_at=NOW,
                batch_stopped_at=NOW + timedelta(seconds=3),
                noticed_at=NOW,
                notice_deadline=NOW + timedelta(seconds=120),
                log_stream=f"align/default/{epoch}",
            )
            for epoch in (1, 2)
        ],
        checkpoints=[checkpoint(1), checkpoint(2)],
        checkpoints_committed=9,
        checkpoint_failures=1,
        checkpoint_failed_at=NOW,
        frozen_seconds=4.5,
        checkpoint_failure="the volume is full",
        checkpoint_error="JobRootFull",
        checkpoint_failures_in_a_row=2,
        quarantined=[6],
        rehearsal=Rehearsal(
            number=7, epoch=2, at=NOW, verdict=RehearsalVerdict.FAILED, reason="a file has bad size", seconds=2.5
        ),
        rehearsals=3,
        rehearsal_failures=1,
        protections=4,
        outages=[
            Outage(
                epoch=1,
                kind="notice",
                started_at=NOW,
                ended_at=NOW + timedelta(seconds=40),
                seconds=40.0,
                phases={"frozen": 0.1, "waited": 30.0, "attached": 9.9},
                restored_from=7,
                work_lost_seconds=0.0,
            )
        ],
        volume_id="vol-1",
        volume_zone="us-east-1a",
        volumes=[
            VolumeLife(
                volume_id=f"vol-{number}",
                zone="us-east-1a",
                volume_type="gp3",
                size_gib=10,
                created_at=NOW + timedelta(seconds=number),
                deleted_at=NOW + timedelta(hours=1),
            )
            for number in (1, 2)
        ],
        snapshots=[SnapshotLife(snapshot_id="snap-1", volume_id="vol-1", size_gib=10, created_at=NOW, deleted_at=NOW)],
        unprotected="checkpoints are turned off",
        stored=StoredUnder(store=StoreConfiguration(kind="s3", bucket="checkpoints"), job_id="an-older-job"),
        shared_mounts=["/shared"],
        max_rootfs_bytes=1 << 40,
        hand_over="end container",
        attempts_left=8,
        log_group="/aws/batch/job",
    )
    return job.model_copy(update=changes)


def event(sequence: int) -> JobEvent:
    return JobEvent(sequence=sequence, at=NOW, kind="remark", message=f"line {sequence}", level="warning", epoch=2)


@pytest.mark.parametrize(
    ("row", "model", "ours"),
    [
        (tables.JobRow, Job, {"revision", "position", "instance_id", "zone", "stored_ending_at"}),
        (tables.AttemptRow, Attempt, {"job_id"}),
        (tables.CheckpointRow, Checkpoint, {"job_id", "offered"}),
        (tables.OutageRow, Outage, {"job_id"}),
        (tables.VolumeRow, VolumeLife, {"job_id", "ending_at"}),
        (tables.SnapshotRow, SnapshotLife, {"job_id"}),
        (tables.EventRow, JobEvent, {"job_id", "position"}),
        (tables.NodeRow, Node, {"position"}),
        (tables.ConfigurationRow, configuration.ConfigurationChange, set()),
    ],
)
def test_columns_are_in_step_with_the_domain(row: type[SQLModel], model: type[BaseModel], ours: set[str]) -> None:
    lists = jobs.LISTS if model is Job else set()
    assert set(row.model_fields) - ours == set(model.model_fields) - lists


def test_a_job_comes_back_as_it_was(engine: Engine) -> None:
    job = full_job()
    unset = [name for name in Job.model_fields if getattr(job, name) == Job.model_fields[name].default]
    assert unset == [], "the example must use every field"
    with writing(engine) as session:
        assert jobs.record_job(session, job, [event(1), event(2)], revision=5)
    with reading(engine) as session:
        found = jobs.get_job(session, "job-1")
        assert found == job
        assert list(found.outages[0].phases) == ["frozen", "waited", "attached"], "phases keep their order"
        assert list_events(session, "job-1") == [event(1), event(2)]
        assert list_events(session, "job-1", after_sequence=1) == [event(2)]
        with pytest.raises(UnknownJob, match="no job"):
            jobs.get_job(session, "another")
        with pytest.raises(UnknownJob):
            list_events(session, "another")


def test_an_older_revision_changes_nothing_but_its_lines_are_kept(engine: Engine) -> None:
    with writing(engine) as session:
        jobs.record_job(session, full_job(protections=2), [event(1), event(3)], revision=5)
    for revision in (4, 5):
        with writing(engine) as session:
            assert not jobs.record_job(session, full_job(protections=1), [event(1), event(2)], revision=revision)
    with reading(engine) as session:
        assert jobs.get_job(session, "job-1").protections == 2
        assert [line.sequence for line in list_events(session, "job-1")] == [1, 2, 3]


def test_lists_follow_the_job_and_past_checkpoints_stay_as_history(engine: Engine) -> None:
    with writing(engine) as session:
        jobs.record_job(session, full_job(), [], revision=1)
    with writing(engine) as session:
        jobs.record_job(session, full_job(checkpoints=[checkpoint(2), checkpoint(3)], outages=[]), [], revision=2)
    with reading(engine) as session:
        job = jobs.get_job(session, "job-1")
        assert [one.number for one in job.checkpoints] == [2, 3] and job.outages == []
        assert session.connection().execute(text("SELECT count(*) FROM checkpoints")).scalar() == 3


def test_a_cursor_comes_back_and_fits_no_other_list() -> None:
    at, job_id = tables.plain(tables.JobRow).c["created_at"], tables.plain(tables.JobRow).c["job_id"]
    keyset = Keyset(at, job_id, question=["jobs", "spot"])
    cursor = keyset.write(NOW, "a/b?=é")
    assert keyset.read(cursor) == ((NOW - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1), "a/b?=é")
    for other in (
        Keyset(at, job_id, question=["jobs", "other"]),
        Keyset(at, job_id, question=["jobs", "spot"], down=True),
        Keyset(job_id, question=["jobs", "spot"]),
    ):
        with pytest.raises(ConfigurationInvalid, match="first page"):
            other.read(cursor)


def test_nodes(engine: Engine) -> None:
    notice = Notice(notice_id="n", kind=NoticeKind.INTERRUPTION, instance_id="i-1", seen_at=NOW, deadline=NOW)
    noticed = Node(
        instance_id="i-1",
        zone="us-east-1a",
        instance_type="c5.large",
        state=NodeState.NOTICED,
        agent_version="1",
        cpu_features="avx",
        first_seen_at=NOW,
        changed_at=NOW + timedelta(seconds=5),
        notice=notice,
        region="us-east-1",
        pay_type="spot",
        launched_at=NOW,
        ended_at=NOW + timedelta(hours=1),
        ended_by="aws",
        host_name="ip-10-0-0-1",
        ips=["10.0.0.1"],
        arch="x86_64",
        vcpus=2,
        memory_mib=4096,
        cpu_model="Xeon",
        cpu_vendor="GenuineIntel",
    )
    with writing(engine) as session:
        assert nodes.record_node(session, noticed)
        assert not nodes.record_node(session, noticed.model_copy(update={"changed_at": NOW, "notice": None}))
        nodes.record_node(session, Node(instance_id="i-2", zone="us-east-1b"))
    with reading(engine) as session:
        assert nodes.get_node(session, "i-1") == noticed
        with pytest.raises(UnknownNode):
            nodes.get_node(session, "i-3")


def test_configuration_keeps_its_history(engine: Engine) -> None:
    with reading(engine) as session:
        assert configuration.current_configuration(session) == SystemConfiguration()
    changed = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=60, diagnosis=True))
    with writing(engine) as session:
        first = configuration.save_configuration(session, changed, at=NOW, by="a person")
        second = configuration.save_configuration(session, SystemConfiguration(), at=NOW, by="another")
    with reading(engine) as session:
        assert configuration.current_configuration(session) == SystemConfiguration()
        assert configuration.configuration_history(session) == [second, first]
        assert configuration.configuration_history(session, before=second.number) == [first]
        assert first.configuration == changed and first.number < second.number


def test_a_failed_transaction_leaves_nothing(engine: Engine) -> None:
    with pytest.raises(RuntimeError), writing(engine) as session:
        jobs.record_job(session, full_job(), [event(1)], revision=1)
        raise RuntimeError("the power is gone")
    with reading(engine) as session:
        assert list_jobs(session).items == []


def test_foreign_keys_hold(engine: Engine) -> None:
    with pytest.raises(IntegrityError), writing(engine) as session:
        session.add(tables.EventRow(job_id="nobody", position=1, **event(1).model_dump()))


def test_a_naive_time_is_refused(engine: Engine) -> None:
    with pytest.raises(Exception, match="no time zone"), writing(engine) as session:
        jobs.record_job(session, full_job(created_at=NOW.replace(tzinfo=None)), [], revision=1)


def test_writers_queue_up_and_readers_never_wait(engine: Engine) -> None:
    def write(number: int) -> None:
        for revision in range(1, 6):
            with writing(engine) as session:
                jobs.record_job(session, full_job(f"job-{number}"), [event(revision)], revision=revision)

    with ThreadPoolExecutor(4) as pool, writing(engine) as holding:
        jobs.record_job(holding, full_job("held"), [], revision=1)
        running = [pool.submit(write, number) for number in range(4)]
        with reading(engine) as session:  # while the write lock is held
            assert list_jobs(session).items == []
        holding.commit()
        for one in running:
            one.result()
    with reading(engine) as session:
        assert len(list_jobs(session).items) == 5
        assert [line.sequence for line in list_events(session, "job-3")] == [1, 2, 3, 4, 5]


def test_a_reader_sees_one_state_and_changes_nothing(engine: Engine) -> None:
    with reading(engine) as session:
        assert list_jobs(session).items == []
        with writing(engine) as writer:
            jobs.record_job(writer, full_job(), [], revision=1)
        assert list_jobs(session).items == []
        session.add(tables.ConfigurationRow(at=NOW, by="nobody", configuration={}))
        with contextlib.suppress(DBAPIError):  # PostgreSQL refuses it, SQLite forgets it
            session.flush()
    with reading(engine) as session:
        assert [line.job_id for line in list_jobs(session).items] == ["job-1"]
        assert session.execute(text("SELECT count(*) FROM configuration")).scalar_one() == 0


def test_migrations_make_exactly_the_tables_of_the_code(engine: Engine) -> None:
    assert differences(engine) == []
    with write_connection(engine) as connection:
        connection.execute(text("ALTER TABLE volumes DROP COLUMN ending_at"))
    ((made, _, table, column),) = differences(engine)
    assert (made, table, column.name) == ("add_column", "volumes", "ending_at")


def test_migrations_keep_what_is_there(engine: Engine) -> None:
    with writing(engine) as session:
        jobs.record_job(session, full_job(), [], revision=1)
    migrate(engine)
    with reading(engine) as session:
        assert jobs.get_job(session, "job-1") == full_job()


def test_several_processes_migrate_at_once(url: str) -> None:
    code = "import sys; from perdure.records.schema.database import *; migrate(open_engine(sys.argv[1]))"
    started = [subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.PIPE) for _ in range(3)]
    for process in started:
        _, problems = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, problems.decode()
    engine = open_engine(url)
    with reading(engine) as session:
        assert jobs.count_jobs(session) == {}
    engine.dispose()
