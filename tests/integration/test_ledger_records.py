"""The ledger and its rollups on SQLite and on PostgreSQL: whatever is recorded, in whatever order, sums stay sums."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, select, text, update
from sqlmodel import Session

from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.figures import Figures, LedgerEntry
from perdure.domain.jobs import Attempt, Job, JobState
from perdure.domain.nodes import Node
from perdure.domain.rollups import Level, bucket_start
from perdure.domain.store_costs import StoreUse
from perdure.domain.volumes import VolumeLife
from perdure.records.costs.ledger import known_lines, lock_job, retire_ledger, store_lines
from perdure.records.costs.reports import sum_job
from perdure.records.costs.rollups import prune_rollups, rebuild_rollups
from perdure.records.jobs import jobs, resumptions
from perdure.records.jobs.ledger_refresh import refresh_ledger
from perdure.records.nodes import nodes
from perdure.records.schema.database import migrate, open_engine, reading, writing
from perdure.records.schema.ledger_tables import FIGURES, ledger, rollups

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
Sums = dict[tuple[str, datetime, str], tuple[int, ...]]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('ledger')}/perdure.db"
    else:
        url = request.getfixturevalue("postgres").new_database()
    engine = open_engine(url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(shared_engine: Engine) -> Engine:
    """Migrated, and empty."""
    empty(shared_engine)
    return shared_engine


def empty(engine: Engine) -> None:
    with writing(engine) as session:
        for table in ("ledger", "rollups", "jobs", "nodes"):
            session.connection().execute(text(f"DELETE FROM {table}"))


def line(job_id: str, key: str, at: datetime = NOON, **figures: int) -> LedgerEntry:
    return LedgerEntry(job_id=job_id, key=key, kind="job", at=at, figures=Figures(**figures))


def store_ledger(session: Session, job_id: str, queue: str, entries: Collection[LedgerEntry]) -> None:
    """Make these the job's ledger."""
    lock_job(session, job_id)
    store_lines(session, job_id, queue, known_lines(session, job_id), entries)


def store(engine: Engine, job_id: str, queue: str, *entries: LedgerEntry) -> None:
    with writing(engine) as session:
        store_ledger(session, job_id, queue, entries)


def summed_lines(session: Session) -> Sums:
    """The rollups as they must be: summed here, line by line."""
    sums: Sums = {}
    for row in session.connection().execute(select(ledger)):
        for level in Level:
            key = (str(level), bucket_start(level, row.at), row.queue)
            figures = tuple(row._mapping[name] for name in FIGURES)
            sums[key] = tuple(a + b for a, b in zip(sums.get(key, (0,) * len(FIGURES)), figures, strict=True))
    return {key: value for key, value in sums.items() if any(value)}


def rolled_up(session: Session, *, retired: bool = False) -> Sums:
    rows = session.connection().execute(select(rollups).where(rollups.c.retired == retired))
    sums = {(row.level, row.bucket, row.queue): tuple(row._mapping[name] for name in FIGURES) for row in rows}
    return {key: value for key, value in sums.items() if any(value)}


def figures_of(sums: Sums, level: str, queue: str) -> list[tuple[datetime, dict[str, int]]]:
    """What is not zero, by bucket."""
    return [
        (bucket, {name: value for name, value in zip(FIGURES, values, strict=True) if value})
        for (at_level, bucket, of_queue), values in sorted(sums.items())
        if (at_level, of_queue) == (level, queue)
    ]


def test_the_migration_has_the_columns_of_the_figures() -> None:
    """A field added to Figures needs a migration of its own once 0005 is released; until then, its line in 0005."""
    path = Path(__file__).parents[2] / "perdure/records/schema/migrations/versions/0005_ledger.py"
    scope: dict[str, object] = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    assert scope["_FIGURES"] == list(FIGURES)


def test_lines_are_summed_by_minute_hour_and_day(engine: Engine) -> None:
    late = NOON + timedelta(minutes=59, seconds=59, microseconds=999_999)
    store(engine, "a", "q", line("a", "1", jobs=1, cpu_ms=500), line("a", "2", at=late, lost_ms=7))
    store(engine, "b", "q", line("b", "1", at=NOON + timedelta(hours=11), jobs=1, saved_micros=-30))
    with reading(engine) as session:
        sums = rolled_up(session)
        assert sums == summed_lines(session)
    assert figures_of(sums, "minute", "q") == [
        (NOON, {"jobs": 1, "cpu_ms": 500}),
        (NOON + timedelta(minutes=59), {"lost_ms": 7}),
        (NOON + timedelta(hours=11), {"jobs": 1, "saved_micros": -30}),
    ]
    assert figures_of(sums, "hour", "q") == [
        (NOON, {"jobs": 1, "cpu_ms": 500, "lost_ms": 7}),
        (NOON + timedelta(hours=11), {"jobs": 1, "saved_micros": -30}),
    ]
    day = {"jobs": 2, "cpu_ms": 500, "lost_ms": 7, "saved_micros": -30}
    assert figures_of(sums, "day", "q") == [(NOON.replace(hour=0), day)]


def test_a_line_replaces_the_one_of_its_key_and_what_is_not_said_again_goes(engine: Engine) -> None:
    store(engine, "a", "q", line("a", "1", cpu_ms=5), line("a", "2", cpu_ms=50), line("a", "3", cpu_ms=500))
    store(engine, "a", "q", line("a", "1", cpu_ms=6), line("a", "2", at=NOON + timedelta(minutes=1), cpu_ms=50))
    with reading(engine) as session:
        sums = rolled_up(session)
        assert sums == summed_lines(session)
        assert session.connection().execute(select(ledger.c.key).order_by(ledger.c.key)).scalars().all() == ["1", "2"]
    assert figures_of(sums, "minute", "q") == [
        (NOON, {"cpu_ms": 6}),
        (NOON + timedelta(minutes=1), {"cpu_ms": 50}),
    ]


def test_a_job_moves_to_the_queue_that_it_turns_out_to_be_in(engine: Engine) -> None:
    store(engine, "a", "", line("a", "1", jobs=1))
    store(engine, "a", "spot", line("a", "1", jobs=1))
    with reading(engine) as session:
        sums = rolled_up(session)
        assert sums == summed_lines(session)
    assert {queue for _, _, queue in sums} == {"spot"}


def test_a_line_that_is_as_it_was_is_not_written_again(engine: Engine) -> None:
    entries = [line("a", str(number), cpu_ms=number) for number in range(3)]
    store(engine, "a", "q", *entries)
    with writing(engine) as session:  # a mark that only a write would wipe out
        session.connection().execute(update(ledger).values(lost_ms=1))
        session.connection().execute(delete(rollups))
    changed = [line("a", str(number), cpu_ms=number, lost_ms=1) for number in range(3)]
    store(engine, "a", "q", *changed)
    with reading(engine) as session:
        assert rolled_up(session) == {}
    store(engine, "a", "q", *changed[:2], line("a", "2", cpu_ms=2, lost_ms=3))
    with reading(engine) as session:
        assert figures_of(rolled_up(session), "day", "q") == [(NOON.replace(hour=0), {"lost_ms": 2})]


def test_a_line_of_another_job_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="not one of job 'b'"):
        store(engine, "b", "q", line("a", "1"))


# Jobs' records


def job(job_id: str, hour: int = 0, **fields: object) -> Job:
    return Job(job_id=job_id, queue="q", created_at=NOON, changed_at=NOON + timedelta(hours=hour), **fields)


def record(engine: Engine, revision: int, job: Job) -> None:
    with writing(engine) as session:
        jobs.record_job(session, job, [], revision)


def counters(engine: Engine) -> list[tuple[datetime, dict[str, int]]]:
    """Attempts and successes by hour."""
    with reading(engine) as session:
        sums = rolled_up(session)
        assert sums == summed_lines(session)
    wanted = ("checkpoint_attempts", "checkpoint_successes", "restore_attempts", "restore_successes")
    found = [(at, {n: v for n, v in each.items() if n in wanted}) for at, each in figures_of(sums, "hour", "q")]
    return [(at, each) for at, each in found if each]


def test_checkpoints_are_counted_in_the_hour_in_which_the_counter_rose(engine: Engine) -> None:
    record(engine, 1, job("a", 0, checkpoints_committed=2, checkpoint_failures=1))
    record(engine, 2, job("a", 1, checkpoints_committed=3, checkpoint_failures=1))
    record(engine, 3, job("a", 1, checkpoints_committed=3, checkpoint_failures=2))
    record(engine, 2, job("a", 1, checkpoints_committed=9, checkpoint_failures=9))  # an old one that comes late
    assert counters(engine) == [
        (NOON, {"checkpoint_attempts": 3, "checkpoint_successes": 2}),
        (NOON + timedelta(hours=1), {"checkpoint_attempts": 2, "checkpoint_successes": 1}),
    ]


def test_restores_are_counted_when_the_container_started(engine: Engine) -> None:
    def attempt(epoch: int, hour: int, restored_from: int | None, failures: int) -> Attempt:
        at = NOON + timedelta(hours=hour, minutes=30)
        return Attempt(
            epoch=epoch,
            attempt=epoch,
            instance_id=f"i-{epoch}",
            zone="z",
            container_id="c",
            accepted_at=at - timedelta(hours=1),
            started_at=at,
            restored_from=restored_from,
            restore_failures=failures,
        )

    first, second, third = attempt(1, 0, None, 0), attempt(2, 2, 7, 1), attempt(3, 2, None, 2)
    record(engine, 1, job("a", attempts=[first]))
    assert counters(engine) == []
    record(engine, 2, job("a", attempts=[first, second]))
    assert counters(engine) == [(NOON + timedelta(hours=2), {"restore_attempts": 2, "restore_successes": 1})]
    record(engine, 3, job("a", attempts=[first, second, third]))
    assert counters(engine) == [(NOON + timedelta(hours=2), {"restore_attempts": 4, "restore_successes": 1})]


@pytest.mark.parametrize("minutes", [[7] * 12, [61, 1, 200, 59, 1440, 3], [0, 0, 600, 60, 60]])
def test_a_job_that_only_grows_older_has_the_ledger_that_its_whole_record_gives(
    engine: Engine, minutes: list[int]
) -> None:
    """Only the last hours are worked out anew at such a record."""
    running = Attempt(epoch=1, attempt=1, instance_id="i-1", zone="us-east-1a", container_id="c", accepted_at=NOON)
    node = Node(instance_id="i-1", zone="us-east-1a", instance_type="m5.large", vcpus=2, pay_type="spot")
    with writing(engine) as session:
        nodes.record_node(session, node)
    now, taken = NOON, []
    for revision, pause in enumerate(minutes, start=1):
        now += timedelta(minutes=pause)
        taken.append(
            Checkpoint(
                number=revision,
                kind=CheckpointKind.PERIODIC,
                epoch=1,
                frozen_at=now - timedelta(minutes=2),
                committed_at=now,
                phases={"frozen": 0.25},
            )
        )
        record(
            engine,
            revision,
            Job(
                job_id="a",
                queue="q",
                vcpus=1,
                state=JobState.RUNNING,
                epoch=1,
                created_at=NOON,
                changed_at=now,
                attempts=[running.model_copy(update={"started_at": NOON + timedelta(seconds=9)})],
                checkpoints=taken[-2:],
                checkpoints_committed=len(taken),
                volumes=[VolumeLife(volume_id="v", zone="us-east-1a", volume_type="gp3", size_gib=9, created_at=NOON)],
            ),
        )
        with reading(engine) as session:
            grown = session.connection().execute(select(ledger).order_by(ledger.c.key)).all()
            refresh_ledger(session, "a", now)
            assert session.connection().execute(select(ledger).order_by(ledger.c.key)).all() == grown
            session.rollback()
            assert rolled_up(session) == summed_lines(session)
    assert sum(line.cpu_ms for line in grown) == (now - NOON - timedelta(seconds=9)) // timedelta(milliseconds=1)
    assert sum(line.frozen_ms for line in grown) == 250 * len(taken)


# Retention and repair


def test_totals_outlive_the_jobs(engine: Engine) -> None:
    record(engine, 1, job("a", checkpoints_committed=2))
    record(engine, 1, job("b", checkpoints_committed=5))
    with reading(engine) as session:
        before = rolled_up(session)
    with writing(engine) as session:
        session.connection().execute(text("DELETE FROM jobs WHERE job_id = 'a'"))
        retire_ledger(session, ["a"])
    for _ in range(2):
        with reading(engine) as session:
            kept, retired = rolled_up(session), rolled_up(session, retired=True)
            assert kept == summed_lines(session)
            assert figures_of(kept, "day", "q")[0][1]["checkpoint_successes"] == 5
            assert {key: tuple(map(sum, zip(kept[key], retired[key], strict=True))) for key in kept} == before
        with writing(engine) as session:
            rebuild_rollups(session)


def test_a_damaged_rollup_is_made_anew(engine: Engine) -> None:
    for number in range(20):
        at = NOON + timedelta(minutes=17 * number)
        store(engine, f"j{number}", f"q{number % 3}", line(f"j{number}", "1", at, jobs=1, saved_ms=-number))
    with writing(engine) as session:
        session.connection().execute(update(rollups).values(jobs=99))
        rebuild_rollups(session)
    with reading(engine) as session:
        assert rolled_up(session) == summed_lines(session)


def test_fine_levels_are_kept_for_a_while(engine: Engine) -> None:
    days = (0, 7, 8, 90, 91, 1000)
    for back in days:
        store(engine, f"j{back}", "q", line(f"j{back}", "1", NOON - timedelta(days=back), jobs=1))
    with writing(engine) as session:
        assert prune_rollups(session, NOON + timedelta(hours=5)) == 4 + 2
        assert prune_rollups(session, NOON + timedelta(hours=5)) == 0
    with reading(engine) as session:
        kept = rolled_up(session)
    found = {str(level): len(figures_of(kept, level, "q")) for level in Level}
    assert found == {"minute": 2, "hour": 4, "day": 6, "four weeks": 3}
    with writing(engine) as session:
        rebuild_rollups(session, now=NOON + timedelta(hours=5))
    with reading(engine) as session:
        assert rolled_up(session) == kept


def test_what_a_store_costs_is_counted_as_it_is_told_and_stays_when_the_job_goes(engine: Engine) -> None:
    """Requests at the shipped prices of us-east-1, 50 GiB for two hours of March, and what the end asked after it."""

    def use(name: str, minutes: int, **fields: int) -> StoreUse:
        return StoreUse(use_id=name, at=NOON + timedelta(minutes=minutes), region="us-east-1", **fields)

    def tell(revision: int, made: Job, *uses: StoreUse) -> dict[str, int]:
        with writing(engine) as session:
            jobs.record_job(session, made, [], revision, uses)
        with reading(engine) as session:
            assert rolled_up(session) == summed_lines(session)
            return dict(figures_of(rolled_up(session), "day", "q")[0][1])

    first = use("one", 30, writes=100, reads=10, key_requests=100, held_bytes=50 << 30)
    attempt = Attempt(epoch=1, attempt=1, instance_id="i-1", zone="z", container_id="c", accepted_at=NOON)
    running = job("a", 1, state=JobState.RUNNING, epoch=1, attempts=[attempt])
    assert tell(1, running, first)["store_micros"] > 500
    late = use("late", 10, writes=3)
    tell(2, running.model_copy(update={"changed_at": NOON + timedelta(hours=2)}), first, late)
    over = running.model_copy(update={"state": JobState.SUCCEEDED, "finished_at": NOON + timedelta(minutes=140)})
    tell(3, over)
    figures = tell(4, over, use("end", 150, writes=6, held_bytes=0))
    # 50 GiB x 0.023 x 2 h / 744 h; 109 writes and 10 reads; 100 requests to KMS
    assert abs(figures["store_micros"] - (50 * 23_000 * 2 / 744 + 109 * 5 + 10 * 0.4)) < 5
    assert (figures["key_micros"], figures["estimated_micros"]) == (300, figures["store_micros"] + 300)
    assert tell(5, over.model_copy(update={"exit_code": 0})) == figures, "a later record knows no less"
    with writing(engine) as session:
        rebuild_rollups(session)
    with writing(engine) as session:
        retire_ledger(session, ["a"])
        session.connection().execute(text("DELETE FROM jobs"))
        assert session.connection().execute(text("SELECT count(*) FROM store_uses")).scalar() == 0
    with reading(engine) as session:
        assert dict(figures_of(rolled_up(session, retired=True), "day", "q")[0][1]) == figures


def test_what_a_kept_volume_cost_until_a_resumed_job_took_it_is_the_old_jobs(engine: Engine) -> None:
    volume = VolumeLife(volume_id="v", zone="us-east-1a", volume_type="gp3", size_gib=744, created_at=NOON)
    over = job("old", state=JobState.FAILED, finished_at=NOON + timedelta(hours=1), volumes=[volume], volume_id="v")
    record(engine, 1, over)
    note = resumptions.Resumption(
        job_id="old", request_id="r", job_name="n", checkpoint=1, volume_id="v", epoch=1, asked_at=NOON
    )
    with writing(engine) as session:
        resumptions.begin(session, note)
        assert resumptions.taken(session, note, NOON + timedelta(hours=10)) is None, "nothing of it is in a store"
    with reading(engine) as session:
        assert rolled_up(session) == summed_lines(session)
        assert sum_job(session, "old").volume_micros == 10 * 80_000


# Whatever happens

MOMENTS = st.integers(0, 3 * 86400).map(lambda seconds: NOON + timedelta(seconds=seconds))
AMOUNTS = st.integers(-(10**12), 10**12)
JOBS, QUEUES = st.sampled_from("ab"), st.sampled_from(["", "q", "r"])
ENTRIES = st.dictionaries(
    st.sampled_from("1234"),
    st.tuples(MOMENTS, st.dictionaries(st.sampled_from(["jobs", "cpu_ms", "saved_micros"]), AMOUNTS, max_size=2)),
    max_size=4,
)
STORED = st.tuples(st.just("store"), JOBS, QUEUES, ENTRIES)
RECORDED = st.tuples(st.just("record"), JOBS, QUEUES, st.integers(1, 6))
RETIRED = st.tuples(st.just("retire"), JOBS)


USED: list[dict[str, int]] = [{}, {"writes": 90, "held_bytes": 1 << 33}, {"reads": 9}, {"key_requests": 70}]
USED += [{"writes": 5, "held_bytes": 0}, {"held_bytes": 1 << 36}, {"writes": 1}]
"""Of a store, by revision."""


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STORED | RECORDED | RETIRED, max_size=6))
def test_rollups_are_the_sum_of_the_ledger(shared_engine: Engine, steps: list[tuple[object, ...]]) -> None:
    empty(shared_engine)
    retired: Sums = {}
    for step in steps:
        with writing(shared_engine) as session:
            match step:
                case ("store", str(job_id), str(queue), dict(entries)):
                    lines = [line(job_id, key, at, **figures) for key, (at, figures) in entries.items()]
                    store_ledger(session, job_id, queue, lines)
                case ("record", str(job_id), str(queue), int(revision)):
                    made = job(job_id, revision, checkpoints_committed=revision // 2, checkpoint_failures=revision // 3)
                    use = StoreUse(use_id=str(revision), at=made.changed_at, region="us-east-1", **USED[revision])
                    jobs.record_job(session, made.model_copy(update={"queue": queue}), [], revision, [use])
                case ("retire", str(job_id)):
                    before = summed_lines(session)
                    retire_ledger(session, [job_id])
                    after = summed_lines(session)
                    nothing = (0,) * len(FIGURES)
                    for key in before:
                        lost = zip(before[key], after.get(key, nothing), retired.get(key, nothing), strict=True)
                        retired[key] = tuple(was - left + already for was, left, already in lost)
        with reading(shared_engine) as session:
            assert rolled_up(session) == summed_lines(session)
            assert rolled_up(session, retired=True) == {key: each for key, each in retired.items() if any(each)}


def test_writers_at_the_same_time_lose_nothing(engine: Engine) -> None:
    """Two writers per job and many jobs per bucket, in opposite orders."""

    def work(worker: int) -> None:
        for turn in range(12):
            name = f"j{(turn if worker % 2 else 11 - turn) // 2}"
            moments = [NOON + timedelta(minutes=7 * (turn + worker) % 60, hours=shift) for shift in (0, 1, 30)]
            entries = [line(name, str(index), at, jobs=worker + turn + 1) for index, at in enumerate(moments)]
            store(engine, name, "q" if turn % 3 else "r", *entries)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    with reading(engine) as session:
        assert rolled_up(session) == summed_lines(session)
        assert session.connection().execute(select(ledger.c.job_id).distinct()).scalars().all().__len__() == 6
