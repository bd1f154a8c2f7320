"""Checkpoints in a store end with their job, or, where they were kept, when their time is over; a resumed job takes
them. A directory is the store; Batch is played."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Engine
from temporalio.testing import ActivityEnvironment

from activities.batch import BatchLookups
from activities.resumption import Resumptions
from activities.stores import Stores
from perdure.contracts.reconciling import Reconcile
from perdure.contracts.resumption import ResumeJob, TakeOver
from perdure.contracts.stores import ForgetCheckpoints
from perdure.domain.configuration import ServerConfiguration, StoreConfiguration, SystemConfiguration
from perdure.domain.errors import NotResumable
from perdure.domain.jobs import Job, JobState, StoredUnder
from perdure.records.costs.reports import sum_job
from perdure.records.costs.store_uses import uses_of
from perdure.records.jobs import resumptions
from perdure.records.jobs.changes import changes_after, last_position
from perdure.records.jobs.events import list_events
from perdure.records.jobs.jobs import get_job, record_job
from perdure.records.schema.database import reading, writing
from perdure.records.settings.configuration import save_configuration
from perdure.stores.opening import open_store
from perdure.stores.stored_checkpoints import StoredCheckpoints
from tests.patience import PATIENCE
from tests.stores.checkpoint_bed import JobRoot

T = TypeVar("T")
NOW = datetime(2026, 12, 20, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Batch:
    """DescribeJobs and SubmitJob."""

    def __init__(self) -> None:
        self.status: dict[str, str] = {}
        self.submitted: list[str] = []

    def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
        shown = [
            {"jobId": one, "jobName": "n", "jobQueue": "q", "jobDefinition": "d:1", "status": self.status[one]}
            for one in jobs
            if one in self.status
        ]
        return {"jobs": shown}

    def describe_job_definitions(self, **_: Any) -> dict[str, Any]:
        return {"jobDefinitions": [{}]}

    def list_jobs(self, **_: Any) -> dict[str, Any]:
        return {"jobSummaryList": []}

    def submit_job(self, jobName: str, **_: Any) -> dict[str, Any]:
        self.submitted.append(jobName)
        self.status["new"] = "RUNNABLE"
        return {"jobId": "new"}


class Bed:
    """Jobs whose checkpoints are in one directory."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        (folder / "store").mkdir()
        self.engine, self.folder, self.batch = engine, folder, Batch()
        self.store = StoreConfiguration(kind="directory", directory=str(folder / "store"))
        self.stores = Stores(engine, folder / "no-key", BatchLookups(self.batch))
        self.resuming = Resumptions(engine, self.stores, self.batch, ec2=object(), now=lambda: NOW)

    def job(self, job_id: str, ended: timedelta | None) -> None:
        """A job that ended so long ago (None: it runs), with one checkpoint."""
        root = JobRoot(self.folder / job_id, job_id, memory_pages=50)
        manifest = root.take()
        stored = StoredCheckpoints(open_store(self.store), job_id)
        stored.put(root.root, root.folder(1), manifest)
        use = stored.use("checkpoint 1", NOW - 20 * DAY)
        job = Job(
            job_id=job_id,
            queue="q",
            state=JobState.RUNNING if ended is None else JobState.FAILED,
            created_at=NOW - 30 * DAY,
            finished_at=None if ended is None else NOW - ended,
            epoch=3,
            checkpoints=[manifest.summary()],
            stored=StoredUnder(store=self.store, job_id=job_id),
        )
        self.batch.status[job_id] = "RUNNING" if ended is None else "FAILED"
        with writing(self.engine) as session:
            record_job(session, job, [], 1, [use])

    def uses(self, job_id: str) -> list[tuple[str, bool]]:
        """Which uses of the store are recorded, and whether it held anything from then on."""
        with reading(self.engine) as session:
            return [(use.use_id, bool(use.held_bytes)) for use in sorted(uses_of(session, job_id), key=lambda x: x.at)]

    def held_hours(self, job_id: str) -> float:
        """Hours for which the ledger counts what lay in the store."""
        with reading(self.engine) as session:
            return sum_job(session, job_id).unpriced_ms / 3_600_000

    def resumed(self, job_id: str) -> None:
        """Somebody resumes it; as which job is not known yet. NotResumable."""
        note = resumptions.Resumption(
            job_id=job_id, request_id="r", job_name="n", checkpoint=1, volume_id="", epoch=3, asked_at=NOW
        )
        with writing(self.engine) as session:
            resumptions.begin(session, note)

    def exists(self, job_id: str) -> bool:
        stored = bool(StoredCheckpoints(open_store(self.store), job_id).numbers())
        with reading(self.engine) as session:
            assert bool(get_job(session, job_id).checkpoints) == stored, "the records say what the store says"
        return stored

    async def reconcile(self) -> int:
        return (await run(self.stores.reconcile_stores, Reconcile(now=NOW))).told


async def run(activity: Callable[[Any], Awaitable[T]], argument: object) -> T:
    return await asyncio.wait_for(ActivityEnvironment().run(activity, argument), PATIENCE)


@pytest.fixture
def bed(engine: Engine, tmp_path: Path) -> Bed:
    return Bed(engine, tmp_path)


async def test_those_of_a_job_that_is_over_are_deleted_at_once(bed: Bed) -> None:
    bed.job("over", DAY)
    request = ForgetCheckpoints(job_id="over", store=bed.store)
    assert (await run(bed.stores.forget_checkpoints, request)).checkpoints == 1
    assert (await run(bed.stores.forget_checkpoints, request)).checkpoints == 0
    assert [*open_store(bed.store).list("")] == []


async def test_what_a_sibling_still_needed_costs_its_writer_until_it_goes(bed: Bed) -> None:
    """The second child of an array begins with the first one's packs, which stay when the first is over."""
    roots = [JobRoot(bed.folder / f"{child}", f"array:{child}", memory_pages=700) for child in (0, 1)]
    for child, root in enumerate(roots):
        stored = StoredCheckpoints(open_store(bed.store), root.job_id)
        stored.put(root.root, root.folder(1), root.take())
        job = Job(job_id=root.job_id, created_at=NOW, stored=StoredUnder(store=bed.store, job_id=root.job_id))
        with writing(bed.engine) as session:
            record_job(session, job, [], 1, [stored.use("checkpoint 1", NOW - 25 * DAY + child * HOUR)])
    held = []
    for root in roots:
        gone = await run(bed.stores.forget_checkpoints, ForgetCheckpoints(job_id=root.job_id, store=bed.store))
        assert gone.store_use is not None
        held.append(gone.store_use.held_bytes)
    assert held[0] and held[1] == 0
    assert [*open_store(bed.store).list("")] == []
    assert bed.uses("array:0")[-1] == ("array:1 forgotten", False)


async def test_kept_ones_go_when_their_time_is_over_and_not_before(bed: Bed) -> None:
    for job_id, ended in (("old", 8 * DAY), ("young", 6 * DAY), ("runs", None)):
        bed.job(job_id, ended)
    with reading(bed.engine) as session:
        seen = last_position(session)
    assert await bed.reconcile() == 1
    assert [bed.exists(one) for one in ("old", "young", "runs")] == [False, True, True]
    assert bed.uses("old") == [("checkpoint 1", True), (f"forgotten/{NOW:%Y-%m-%dT%H:%M:%S.%f}", False)]
    assert bed.held_hours("old") == 20 * 24, "until it was deleted; a directory has no price that we know"
    with reading(bed.engine) as session:
        assert get_job(session, "old").stored is None
        assert "had been kept for 168h after the job's end" in list_events(session, "old")[-1].message
        changes, _ = changes_after(session, seen, upto=last_position(session))
        assert [one.job.job_id for one in changes if one.job] == ["old"], "whoever follows the changes hears of it"
    assert await bed.reconcile() == 0, "and no line is added again"


async def test_zero_keeps_them_until_a_person_deletes_them(bed: Bed) -> None:
    bed.job("old", 300 * DAY)
    wanted = SystemConfiguration(server=ServerConfiguration(keep_volume_seconds=0))
    with writing(bed.engine) as session:
        save_configuration(session, wanted, by="test", at=NOW)
    assert await bed.reconcile() == 0 and bed.exists("old")


async def test_a_store_that_is_away_is_asked_again(bed: Bed) -> None:
    bed.job("old", 9 * DAY)
    shutil.move(bed.store.directory, bed.folder / "away")
    assert await bed.reconcile() == 0
    shutil.move(bed.folder / "away", bed.store.directory)
    bed.resumed("old")
    assert await bed.reconcile() == 0 and bed.exists("old")
    with writing(bed.engine) as session:
        resumptions.drop(session, "old")
    assert await bed.reconcile() == 1 and not bed.exists("old")


async def test_a_resumed_job_takes_them_and_they_end_with_it(bed: Bed) -> None:
    bed.job("old", 9 * DAY)
    wish = ResumeJob(job_id="old", request_id="key", asked_by="Ann", asked_at=NOW)
    resumed = await run(bed.resuming.submit_resumption, wish)
    assert (resumed.new_job_id, resumed.checkpoint) == ("new", 1)
    assert await bed.reconcile() == 0, "a job is about to take them"
    asked = TakeOver(job_id="new", predecessor="old")
    taken = await run(bed.resuming.take_over, asked)
    assert (taken.volume, taken.stored) == (None, StoredUnder(store=bed.store, job_id="old"))
    assert (taken.predecessors, taken.epoch, [one.number for one in taken.checkpoints]) == (["old"], 3, [1])
    assert await run(bed.resuming.take_over, asked) == taken
    assert bed.uses("old")[1:] == [("taken by the job that goes on", False)] and bed.held_hours("old") == 20 * 24
    assert taken.store_use is not None and (taken.store_use.at, taken.store_use.reads) == (NOW, 0)
    assert taken.store_use.held_bytes, "from now on it is the new job's cost"
    bed.batch.status["new"] = "FAILED"
    assert await bed.reconcile() == 0 and bed.exists("old"), "they are the new job's now, whatever becomes of that"


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("first", ["resume", "delete"])
async def test_a_resume_in_the_second_in_which_the_time_ends(
    bed: Bed, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the look at who needs them, before the store deletes. Whichever comes first wins; the other hears it."""
    bed.job("old", 9 * DAY)
    refused: list[str] = []
    when = "_claim" if first == "resume" else "_forget"
    real = getattr(bed.stores, when)

    def meanwhile(*arguments: Any) -> Any:
        try:
            bed.resumed("old")
        except NotResumable as problem:
            refused.append(str(problem))
        return real(*arguments)

    monkeypatch.setattr(bed.stores, when, meanwhile)
    assert await bed.reconcile() == (0 if first == "resume" else 1)
    assert bed.exists("old") == (first == "resume")
    assert bool(refused) == (first == "delete")


async def test_what_a_store_has_not_any_more_cannot_be_resumed(bed: Bed) -> None:
    bed.job("old", DAY)
    StoredCheckpoints(open_store(bed.store), "old").forget()
    with pytest.raises(NotResumable, match="no checkpoint of job old any more"):
        await run(bed.resuming.submit_resumption, ResumeJob(job_id="old", request_id="key", asked_at=NOW))
    shutil.rmtree(bed.store.directory)
    with pytest.raises(NotResumable, match="cannot be read"):
        await run(bed.resuming.submit_resumption, ResumeJob(job_id="old", request_id="key", asked_at=NOW))
    with reading(bed.engine) as session:
        assert resumptions.of_job(session, "old") is None and bed.batch.submitted == []
