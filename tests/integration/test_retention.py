"""Old records go, totals stay: on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select
from temporalio.testing import ActivityEnvironment

from activities.retention import OldRecords
from perdure.contracts.retention import ForgetOldRecords, ForgottenRecords
from perdure.domain.configuration import ServerConfiguration, StoreConfiguration, SystemConfiguration
from perdure.domain.errors import UnknownJob
from perdure.domain.jobs import JobState, StoredUnder
from perdure.domain.nodes import Node, NodeState
from perdure.records.access import audit
from perdure.records.jobs import jobs, log_bundles, resumptions
from perdure.records.jobs.job_lists import list_jobs
from perdure.records.jobs.log_bundles import KeptBundle
from perdure.records.nodes import nodes
from perdure.records.nodes.node_lists import list_nodes
from perdure.records.schema.database import reading, writing
from perdure.records.schema.ledger_tables import ledger, rollups
from perdure.records.settings import configuration
from tests.integration.test_records import full_job

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
KEPT = ServerConfiguration(keep_succeeded_seconds=72 * 3600, keep_failed_seconds=168 * 3600)


def finished(
    engine: Engine,
    job_id: str,
    state: JobState,
    hours_ago: float,
    *,
    volume_gone: bool = True,
    stored: StoredUnder | None = None,
) -> None:
    job = full_job(job_id, state=state, finished_at=NOW - timedelta(hours=hours_ago), stored=stored)
    if not volume_gone:
        job = job.model_copy(update={"volumes": [one.model_copy(update={"deleted_at": None}) for one in job.volumes]})
    with writing(engine) as session:
        jobs.record_job(session, job, [], 1)


def known(engine: Engine) -> set[str]:
    with reading(engine) as session:
        return {line.job_id for line in list_jobs(session, limit=100).items}


def totals(engine: Engine) -> dict[str, tuple[int, int]]:
    """By level: jobs and protections, of living and retired jobs together."""
    query = select(rollups.c.level, func.sum(rollups.c.jobs), func.sum(rollups.c.protections)).group_by(rollups.c.level)
    with engine.connect() as connection:
        return {level: (int(count), int(saved)) for level, count, saved in connection.execute(query)}


async def forget(engine: Engine, now: datetime = NOW) -> ForgottenRecords:
    return await ActivityEnvironment().run(OldRecords(engine).forget_old_records, ForgetOldRecords(now=now))


async def test_finished_jobs_go_after_their_time_and_totals_stay(engine: Engine) -> None:
    with writing(engine) as session:
        system = SystemConfiguration(server=KEPT)
        configuration.save_configuration(session, system, at=NOW, by="me")
    finished(engine, "old success", JobState.SUCCEEDED, 73)
    finished(engine, "new success", JobState.SUCCEEDED, 71)
    finished(engine, "failure", JobState.FAILED, 73)
    finished(engine, "old failure", JobState.FAILED, 169)
    finished(engine, "stopped long ago", JobState.STOPPED, 200)
    finished(engine, "its volume still costs", JobState.FAILED, 210, volume_gone=False)
    for job_id in ("its checkpoints are kept", "another job goes on from them"):
        store = StoreConfiguration(kind="s3", bucket="checkpoints")
        finished(engine, job_id, JobState.FAILED, 210, stored=StoredUnder(store=store, job_id=job_id))
    with writing(engine) as session:
        note = resumptions.Resumption(
            job_id=job_id, request_id="r", job_name="n", checkpoint=1, volume_id="", epoch=1, asked_at=NOW
        )
        resumptions.begin(session, note)
        resumptions.taken(session, note, NOW - timedelta(hours=200))
    with writing(engine) as session:
        jobs.record_job(session, full_job("runs", finished_at=None, created_at=NOW - timedelta(days=300)), [], 1)
        bundle = KeptBundle(
            key="k", job_id="old failure", instance_id="i-1", epoch=1, kind="exit", at=NOW - timedelta(hours=1), size=2
        )
        log_bundles.keep(session, bundle, b"PK")
    before = totals(engine)
    assert before["day"][0] == 9 and before["day"][1] > 0
    gone = await forget(engine)
    assert gone.jobs == 4
    kept = {"its volume still costs", "its checkpoints are kept"}
    assert known(engine) == {"new success", "failure", *kept, "runs"}
    assert totals(engine)["day"] == before["day"]
    with engine.connect() as connection:
        lines = set(connection.scalars(select(ledger.c.job_id).distinct()))
    assert lines == known(engine)
    with reading(engine) as session:
        assert list(log_bundles.of_job(session, "old failure")) == []
        with pytest.raises(UnknownJob):
            jobs.get_job(session, "old failure")
    assert (await forget(engine)).jobs == 0


async def test_nothing_goes_when_kept_for_ever(engine: Engine) -> None:
    with writing(engine) as session:
        system = SystemConfiguration(server=ServerConfiguration(keep_succeeded_seconds=0, keep_failed_seconds=0))
        configuration.save_configuration(session, system, at=NOW, by="me")
    finished(engine, "success", JobState.SUCCEEDED, 210)
    finished(engine, "failure", JobState.FAILED, 210)
    assert (await forget(engine)).jobs == 0
    assert known(engine) == {"success", "failure"}


async def test_nodes_and_lines_of_logs_go_too(engine: Engine) -> None:
    finished(engine, "runs on i-1 and i-2", JobState.FAILED, 1)
    long_ago = NOW - timedelta(days=400)
    with writing(engine) as session:
        for name, state in (("i-1", NodeState.GONE), ("i-9", NodeState.GONE), ("i-10", NodeState.READY)):
            nodes.record_node(session, Node(instance_id=name, zone="z", state=state, changed_at=long_ago))
        for at in (long_ago, NOW):
            audit.note(
                session,
                at=at,
                who="me",
                via="token",
                action="PUT /x",
                target="x",
                outcome=200,
                address="127.0.0.1",
                detail={},
            )
    gone = await forget(engine)
    assert gone.nodes == 1 and gone.lines >= 1
    with reading(engine) as session:
        assert {node.instance_id for node in list_nodes(session).items} == {"i-1", "i-10"}
        assert [line.at for line in audit.list_audit(session).items] == [NOW]
