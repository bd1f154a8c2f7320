"""Lists of jobs, nodes and events: filters, texts, orders and pages, on both databases."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text
from sqlmodel import Session

from perdure.domain.errors import ConfigurationInvalid
from perdure.domain.jobs import Attempt, Job, JobOrder, JobState
from perdure.domain.nodes import Node, NodeState
from perdure.records.jobs import job_lists
from perdure.records.jobs.job_lists import JobFilter, JobLine, list_jobs
from perdure.records.jobs.jobs import record_job
from perdure.records.nodes import node_lists
from perdure.records.nodes.node_lists import NodeFilter, NodeOrder, list_nodes
from perdure.records.nodes.nodes import record_node
from perdure.records.schema.database import migrate, open_engine, reading, writing
from perdure.records.schema.list_tables import JOB_TEXT_INDEX
from tests.integration.postgres_bed import Postgres

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
QUEUES = ("default", "spot", "long")
ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
NAMES = ("align-reads", "Align 100%", 'say "AND" NOT', "call_variants", "Zürich", "a*b", "sort")


def job(number: int) -> Job:
    chosen = random.Random(number)
    state = chosen.choice([JobState.RUNNING, JobState.FAILED, JobState.SUCCEEDED])
    created = NOW + timedelta(minutes=number // 3)  # three at a time
    finished = created + timedelta(hours=chosen.randint(0, 5)) if state != JobState.RUNNING else None
    places = [(f"i-{(number + moved) % 8}", ZONES[(number + moved) % 3 if number % 11 else 2]) for moved in range(2)]
    return Job(
        job_id=f"{number:04x}-job",
        name=chosen.choice(NAMES),
        queue=chosen.choice(QUEUES),
        state=state,
        created_at=created,
        finished_at=finished,
        protections=chosen.randint(0, 3),
        unprotected="it has no volume" if number % 5 == 2 or state == JobState.FAILED else "",
        attempts=[
            Attempt(epoch=at, attempt=at, instance_id=node, zone=zone, container_id=f"c{at}", accepted_at=created)
            for at, (node, zone) in enumerate(places[: number % 3], 1)
        ],
    )


JOBS = [job(number) for number in range(120)]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A database with JOBS in it, recorded in no order."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('search')}/perdure.db"
    else:
        url = request.getfixturevalue("postgres").new_database()
    engine = open_engine(url)
    migrate(engine)
    with writing(engine) as session:
        for one in random.Random(1).sample(JOBS, len(JOBS)):
            record_job(session, one, [], 1)
    yield engine
    engine.dispose()


def all_of(session: Session, where: JobFilter, order: JobOrder, limit: int = 7) -> list[JobLine]:
    """Every page, one after the other."""
    found: list[JobLine] = []
    after = None
    while True:
        page = list_jobs(session, limit=limit, after=after, where=where, order=order)
        assert len(page.items) <= limit
        found += page.items
        if page.next is None:
            return found
        after = page.next


def wanted(where: JobFilter, order: JobOrder) -> list[str]:
    """The same by hand."""

    def fits(one: Job) -> bool:
        words = where.text.casefold()
        newest = one.attempts[-1] if one.attempts else None
        return (
            (not where.queues or one.queue in where.queues)
            and (not where.states or one.state in where.states)
            and (not where.zones or (newest is not None and newest.zone in where.zones))
            and (not where.nodes or (newest is not None and newest.instance_id in where.nodes))
            and (one.unprotected != "" or not where.unprotected)
            and any(words in part.casefold() for part in (one.job_id, one.name, one.queue))
            and (where.created_after is None or one.created_at >= where.created_after)
            and (where.created_before is None or one.created_at < where.created_before)
            and (where.finished_after is None or (one.finished_at or NOW - timedelta(1)) >= where.finished_after)
            and (where.finished_before is None or (one.finished_at or NOW + timedelta(9)) < where.finished_before)
            and (order.removeprefix("-") != "finished_at" or one.finished_at is not None)
        )

    def key(one: Job) -> tuple[object, str]:
        return getattr(one, order.removeprefix("-")), one.job_id

    return [one.job_id for one in sorted(filter(fits, JOBS), key=key, reverse=order.startswith("-"))]


FILTERS = [
    JobFilter(),
    JobFilter(queues=frozenset({"spot"})),
    JobFilter(states=frozenset({JobState.FAILED, JobState.RUNNING})),
    JobFilter(queues=frozenset({"spot", "long"}), states=frozenset({JobState.FAILED, JobState.SUCCEEDED})),
    JobFilter(created_after=NOW + timedelta(minutes=5), created_before=NOW + timedelta(minutes=20)),
    JobFilter(finished_after=NOW + timedelta(hours=1), finished_before=NOW + timedelta(hours=3)),
    JobFilter(text="align", queues=frozenset({"default"}), created_after=NOW + timedelta(minutes=5)),
    JobFilter(text="li", states=frozenset({JobState.SUCCEEDED})),
    JobFilter(zones=frozenset({"us-east-1a", "us-east-1b"})),
    JobFilter(zones=frozenset({"us-east-1b"}), queues=frozenset({"spot"}), states=frozenset({JobState.FAILED})),
    JobFilter(zones=frozenset({"us-east-1c"}), text="align"),
    JobFilter(nodes=frozenset({"i-3", "i-4"})),
    JobFilter(nodes=frozenset({"i-3"}), zones=frozenset({"us-east-1b"}), states=frozenset({JobState.RUNNING})),
    JobFilter(nodes=frozenset({"i-nowhere"})),
    JobFilter(unprotected=True),
    JobFilter(unprotected=True, states=frozenset({JobState.SUCCEEDED})),
    JobFilter(unprotected=True, states=frozenset({JobState.FAILED, JobState.RUNNING}), zones=frozenset({"us-east-1a"})),
    JobFilter(unprotected=True, text="align"),
]


@pytest.mark.parametrize("order", list(JobOrder))
def test_pages_hold_each_wanted_job_once_and_in_order(
    engine: Engine, order: JobOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_lists, "FEW_MATCHES", 30)  # between the filters
    with reading(engine) as session:
        for where in FILTERS:
            found = [line.job_id for line in all_of(session, where, order)]
            # The order of names is the database's own.
            if "name" in order:
                assert sorted(found) == sorted(wanted(where, order)), where
            else:
                assert found == wanted(where, order), where


TEXTS = [
    *("align", "ALIGN", "100%", "%", "_", "call_v", '"AND"', "AND NOT", "NOT", "zür", "ZÜR", "a*b", "*", "a", "co"),
    *("0a", "003", "0-job", "spot", "^sort", "name:sort", "-j", "' OR 1=1 --", "\\", "reads\ndefault", "x" * 200),
]


@pytest.mark.parametrize(("few", "scanned"), [(5000, (1000, 3000)), (4, (9, 41))])
def test_a_text_is_taken_literally(
    engine: Engine, few: int, scanned: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rare or common, looked up or looked for: what is found is the same."""
    monkeypatch.setattr(job_lists, "FEW_MATCHES", few)
    monkeypatch.setattr(job_lists, "SCANNED", scanned)
    with reading(engine) as session:
        for index, words in enumerate(TEXTS):
            where, order = JobFilter(text=words), (JobOrder.NEWEST, JobOrder.FEWEST_PROTECTIONS)[index % 2]
            assert [one.job_id for one in all_of(session, where, order, 16)] == wanted(where, order), words


def test_a_line_shows_the_job(engine: Engine) -> None:
    with reading(engine) as session:
        line = list_jobs(session, where=JobFilter(text=JOBS[5].job_id)).items[0]
    newest = JOBS[5].attempts[-1]
    place = {"instance_id": newest.instance_id, "zone": newest.zone}
    assert line._asdict() == JOBS[5].model_dump(include=set(JobLine._fields)) | place


def test_texts_follow_the_jobs(engine: Engine) -> None:
    def found(words: str) -> list[str]:
        with reading(engine) as session:
            return [line.job_id for line in list_jobs(session, where=JobFilter(text=words)).items]

    one = Job(job_id="changing", name="before", queue="default", created_at=NOW - timedelta(days=1))
    with writing(engine) as session:
        record_job(session, one, [], 1)
    assert found("before") == ["changing"]
    with writing(engine) as session:
        record_job(session, one.model_copy(update={"name": "after"}), [], 2)
    assert found("before") == [] and found("after") == ["changing"]
    with writing(engine) as session:
        session.execute(text("DELETE FROM jobs WHERE job_id = 'changing'"))
    assert found("after") == []
    if engine.dialect.name == "sqlite":
        with writing(engine) as session:  # raises when the index does not say what the texts do
            session.execute(text("INSERT INTO job_texts_search(job_texts_search, rank) VALUES ('integrity-check', 1)"))


def test_a_cursor_belongs_to_its_list(engine: Engine) -> None:
    with reading(engine) as session:
        cursor = list_jobs(session, limit=5).next
        assert cursor is not None
        for where, order in (
            (JobFilter(queues=frozenset({"spot"})), JobOrder.NEWEST),
            (JobFilter(text="a"), JobOrder.NEWEST),
            (JobFilter(created_after=NOW), JobOrder.NEWEST),
            (JobFilter(unprotected=True), JobOrder.NEWEST),
            (JobFilter(), JobOrder.OLDEST),
            (JobFilter(), JobOrder.NAME),
        ):
            with pytest.raises(ConfigurationInvalid, match="first page"):
                list_jobs(session, after=cursor, where=where, order=order)
        with pytest.raises(ConfigurationInvalid):
            list_nodes(session, after=cursor)


def made_up(*key: object) -> str:
    """A cursor as ours are written, but of anything."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "!!!", "e30", made_up("job"), made_up(1, 2), "é", "A" * 900, made_up("f", 2**70, "j"),
     made_up("f", 1, "\0"), made_up("f", 1, "\ud800"), made_up("f", "1", "j")],
)  # fmt: skip
def test_a_foreign_cursor_is_refused(engine: Engine, cursor: str) -> None:
    with reading(engine) as session:
        with pytest.raises(ConfigurationInvalid, match="first page"):
            list_jobs(session, after=cursor)
        with pytest.raises(ConfigurationInvalid, match="first page"):
            list_nodes(session, after=cursor, order=NodeOrder.NEWEST)


def test_without_trigrams_texts_are_found_all_the_same(postgres: Postgres) -> None:
    """A PostgreSQL user who may not create extensions."""
    admin = open_engine(postgres.new_database())
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in (
            "DROP ROLE IF EXISTS plain",
            "CREATE ROLE plain LOGIN",
            "GRANT USAGE, CREATE ON SCHEMA public TO plain",
        ):
            connection.execute(text(statement))
    engine = open_engine(admin.url.set(username="plain").render_as_string(hide_password=False))
    migrate(engine)
    with writing(engine) as session:
        for one in JOBS[:30]:
            record_job(session, one, [], 1)
    with reading(engine) as session:
        indexes = text("SELECT count(*) FROM pg_indexes WHERE indexname = :name")
        assert session.execute(indexes, {"name": JOB_TEXT_INDEX}).scalar() == 0
        assert [line.job_id for line in list_jobs(session, where=JobFilter(text="0007-J")).items] == ["0007-job"]
    engine.dispose()
    admin.dispose()


@pytest.mark.parametrize("looked_at", [node_lists.LOOKED_AT, 4, 1])
def test_nodes_are_filtered_and_sorted(looked_at: int, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_lists, "LOOKED_AT", looked_at)
    nodes = [
        Node(
            instance_id=f"i-{number:02}",
            zone=f"us-east-1{'ab'[number % 2]}",
            instance_type=("c5.large", "m5.large")[number % 3 == 0],
            state=NodeState.GONE if number > 5 else NodeState.READY,
            host_name=f"ip-10-0-0-{number}",
            first_seen_at=NOW + timedelta(minutes=number // 2),
            ended_at=NOW + timedelta(hours=number) if number > 5 else None,
        )
        for number in range(12)
    ]
    with writing(engine) as session:
        for node in nodes:
            record_node(session, node)

    def found(order: NodeOrder = NodeOrder.ID, **where: object) -> list[int]:
        numbers: list[int] = []
        after = None
        with reading(engine) as session:
            while True:
                page = list_nodes(session, limit=2, after=after, where=NodeFilter.model_validate(where), order=order)
                numbers += [int(node.instance_id[2:]) for node in page.items]
                if page.next is None:
                    return numbers
                after = page.next

    assert found() == list(range(12))
    assert found(NodeOrder.ID_DOWN) == list(range(11, -1, -1))
    assert found(NodeOrder.NEWEST) == list(range(11, -1, -1))
    assert found(NodeOrder.FIRST_ENDED) == list(range(6, 12))
    assert found(zones={"us-east-1a"}, states={NodeState.GONE}) == [6, 8, 10]
    assert found(instance_types={"m5.large"}) == [0, 3, 6, 9]
    assert found(NodeOrder.NEWEST, text="ip-10") == list(range(11, -1, -1))
    assert found(text="IP-10-0-0-1") == [1, 10, 11] and found(text="10_0") == [] and found(text="M5.") == [0, 3, 6, 9]
    assert found(seen_after=NOW + timedelta(minutes=5)) == [10, 11]
    assert found(ended_before=NOW + timedelta(hours=8)) == [6, 7]
