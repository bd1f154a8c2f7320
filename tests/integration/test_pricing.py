"""Prices over the wire: asked of the local cloud through boto3, kept on both databases, and the ledgers that follow."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from sqlalchemy import Engine, func, select, text
from temporalio.testing import ActivityEnvironment
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from activities.pricing import Pricing
from localcloud.aws.cloud_config import CREDENTIALS
from localcloud.aws.moto_backend import RequestHandler
from perdure.contracts.prices import PricedPair, RefreshPrices, WorkOutLedgers
from perdure.domain.errors import CloudUnavailable
from perdure.domain.jobs import Attempt, Job, JobState
from perdure.domain.nodes import Node, NodeState
from perdure.domain.prices import PricePoint, Rate
from perdure.domain.store_costs import KEYS, READS, STORAGE, WRITES
from perdure.domain.volumes import VolumeLife
from perdure.records.costs import prices
from perdure.records.jobs import jobs
from perdure.records.jobs.ledger_refresh import refresh_ledger
from perdure.records.nodes import nodes
from perdure.records.schema.database import migrate, open_engine, reading, writing
from perdure.records.schema.ledger_tables import ledger
from perdure.records.schema.price_tables import spot_price_looks, spot_prices
from tests.patience import PATIENCE
from tests.unit.cloud_bed import ZONES, CloudBed, cloud_bed

T = TypeVar("T")
NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = timedelta(hours=1)
PRICE_TABLES = ("spot_prices", "spot_price_looks", "on_demand_prices", "storage_prices")
ALL, NEW = RefreshPrices(everything=True), RefreshPrices(everything=False)


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudBed]:
    with cloud_bed(tmp_path_factory.mktemp("cloud"), nodes_per_zone=0) as bed:
        yield bed


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    sqlite = request.param == "sqlite"
    folder = tmp_path_factory.mktemp("prices")
    url = f"sqlite:///{folder}/perdure.db" if sqlite else request.getfixturevalue("postgres").new_database()
    engine = open_engine(url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(shared_engine: Engine) -> Engine:
    """Migrated, and empty: migrating takes longer than most tests."""
    with writing(shared_engine) as session:
        for table in (*PRICE_TABLES, "ledger", "rollups", "jobs", "nodes"):
            session.connection().execute(text(f"DELETE FROM {table}"))
    return shared_engine


@contextmanager
def clients_of(url: str) -> Iterator[Callable[[str, str], Any]]:
    """As the product makes them, without pauses between tries, and closed at the end."""
    session: Any = boto3.Session(CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
    once = Config(retries={"total_max_attempts": 1})
    with ExitStack() as made:

        def make(service: str, region: str) -> Any:
            client = session.client(service, region_name=region, endpoint_url=url, config=once)
            return made.enter_context(closing(client))

        yield make


@pytest.fixture(scope="module")
def clients(bed: CloudBed) -> Iterator[Callable[[str, str], Any]]:
    with clients_of(bed.cloud.endpoint_url) as clients:
        yield clients


@contextmanager
def refusing(status: int, code: str) -> Iterator[Callable[[str, str], Any]]:
    """An AWS that answers every request with that error."""

    @Request.application
    def answer(request: Request) -> Response:
        if "Pricing" in request.headers.get("X-Amz-Target", "") or "AWSPriceList" in request.headers.get(
            "X-Amz-Target", ""
        ):
            return Response(f'{{"__type": "{code}", "Message": "no"}}', status, mimetype="application/x-amz-json-1.1")
        body = f"<Response><Errors><Error><Code>{code}</Code><Message>no</Message></Error></Errors></Response>"
        return Response(body, status, mimetype="text/xml")

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=RequestHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        with clients_of(f"http://127.0.0.1:{server.server_port}") as clients:
            yield clients
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def run(activity: Callable[[Any], Awaitable[T]], argument: object) -> T:
    """As a worker would; a hanging one fails."""
    return await asyncio.wait_for(ActivityEnvironment().run(activity, argument), PATIENCE)


def has_node(engine: Engine, name: str, zone: str = ZONES[0], kind: str = "c5.large", **more: Any) -> None:
    node = {"instance_id": name, "zone": zone, "instance_type": kind, "pay_type": "spot", "vcpus": 2, "changed_at": NOW}
    with writing(engine) as session:
        nodes.record_node(session, Node.model_validate({**node, "launched_at": NOW - 20 * HOUR, **more}))


def has_job(engine: Engine, job_id: str, node: str, **more: Any) -> Job:
    begun = NOW - 10 * HOUR
    attempt = Attempt(
        epoch=1, attempt=1, instance_id=node, zone=ZONES[0], container_id="c", accepted_at=begun, started_at=begun
    )
    job = Job(job_id=job_id, queue="q", created_at=begun, vcpus=1, state=JobState.RUNNING, attempts=[attempt], epoch=1)
    job = job.model_copy(update=more)
    with writing(engine) as session:
        jobs.record_job(session, job, [], 1)
    return job


def instance_lines(engine: Engine, job_id: str) -> list[Any]:
    with reading(engine) as session:
        mine = select(ledger).where(ledger.c.job_id == job_id, ledger.c.kind == "instance").order_by(ledger.c.at)
        return list(session.connection().execute(mine))


def count(engine: Engine, table: Any) -> int:
    with reading(engine) as session:
        return session.connection().scalar(select(func.count()).select_from(table)) or 0


def test_the_local_spot_price_history_is_like_aws(bed: CloudBed) -> None:
    start = NOW - timedelta(days=3)
    asked: dict[str, Any] = {"InstanceTypes": ["c5.xlarge"], "ProductDescriptions": ["Linux/UNIX"], "StartTime": start}
    found = bed.aws.ec2.describe_spot_price_history(**asked)["SpotPriceHistory"]
    assert {one["AvailabilityZone"] for one in found} == set(ZONES)
    for zone in ZONES:
        mine = [one for one in found if one["AvailabilityZone"] == zone]
        assert [one["Timestamp"] for one in mine] == sorted((one["Timestamp"] for one in mine), reverse=True)
        assert mine[-1]["Timestamp"] <= start < mine[-2]["Timestamp"], "the price that held at the start comes along"
        assert len({one["SpotPrice"] for one in mine}) > 8 and all(
            0.03 < float(one["SpotPrice"]) < 0.09 for one in mine
        )
    pages = bed.aws.ec2.get_paginator("describe_spot_price_history")
    paged = [
        one for page in pages.paginate(**asked, PaginationConfig={"PageSize": 5}) for one in page["SpotPriceHistory"]
    ]
    assert paged == found and len(paged) > 10
    later = bed.aws.ec2.describe_spot_price_history(**{**asked, "StartTime": start + HOUR})["SpotPriceHistory"]
    assert all(one in found for one in later), "the past does not change"
    for wrong in ({"InstanceTypes": ["c99.huge"]}, {"AvailabilityZone": "eu-west-1a"}):
        with pytest.raises(ClientError, match="InvalidParameterValue"):
            bed.aws.ec2.describe_spot_price_history(**{**asked, **wrong})


def test_the_local_price_list_is_like_aws(clients: Callable[[str, str], Any]) -> None:
    pricing = clients("pricing", "us-east-1")
    kind = {"Type": "TERM_MATCH", "Field": "instanceType", "Value": "c5.large"}
    assert len(pricing.get_products(ServiceCode="AmazonEC2", Filters=[kind])["PriceList"]) == 3
    paged = pricing.get_paginator("get_products").paginate(ServiceCode="AmazonEC2", PaginationConfig={"PageSize": 7})
    assert len([one for page in paged for one in page["PriceList"]]) > 30
    with pytest.raises(ClientError, match="NotFoundException"):
        pricing.get_products(ServiceCode="AmazonMoon")
    with pytest.raises(ClientError, match="UnknownOperation"):
        pricing.describe_services()


async def test_prices_are_asked_for_once_and_kept(
    engine: Engine, clients: Callable[[str, str], Any], bed: CloudBed
) -> None:
    pricing = Pricing(engine, clients)
    nothing = await run(pricing.refresh_prices, NEW)
    assert (nothing.asked, nothing.problems) == (0, [])
    has_node(engine, "i-1")
    has_node(engine, "i-2", ZONES[1])
    has_node(engine, "i-3", launched_at=NOW - 30 * HOUR)
    has_node(engine, "i-4", kind="m5.large", pay_type="on-demand")
    first = await run(pricing.refresh_prices, NEW)
    pairs = [PricedPair(instance_type="c5.large", zone=zone) for zone in ZONES]
    assert (first.new_pairs, first.problems, first.asked) == (pairs, [], 2) and first.points == count(
        engine, spot_prices
    )
    assert (await run(pricing.refresh_prices, NEW)).asked == 0, "they are known now"

    with reading(engine) as session:
        known = prices.load_prices(
            session, {("c5.large", ZONES[0]), ("m5.large", ZONES[0])}, {"us-east-1"}, NOW - 30 * HOUR, NOW
        )
    told = bed.aws.ec2.describe_spot_price_history(
        InstanceTypes=["c5.large"], AvailabilityZone=ZONES[0], StartTime=NOW - 30 * HOUR, EndTime=NOW
    )["SpotPriceHistory"]
    for one in told[:-1]:
        assert known.spot("c5.large", ZONES[0]).at(one["Timestamp"]) == round(float(one["SpotPrice"]) * 1e6)
    whole = known.spot("c5.large", ZONES[0]).cost(NOW - 30 * HOUR, NOW)
    assert whole.micros > 0 and whole.estimated_micros == 0, "from the first node's launch to the last look"
    assert known.on_demand("m5.large", "us-east-1").cost(NOW - HOUR, NOW).micros == 96_000
    rate = known.storage("gp3", "us-east-1")
    assert rate is not None and (rate.micros, rate.estimated, rate.source) == (80_000, False, "AWS")
    snapshot = known.storage("snapshot", "us-east-1")
    assert snapshot is not None and not snapshot.estimated
    for kind, micros in (("gp3-iops", 5_000), ("io2-iops", 65_000), ("gp3-throughput", 40_000)):
        rate = known.storage(kind, "us-east-1")
        assert rate is not None and (rate.micros, rate.estimated) == (micros, False), kind
    of_a_store = {STORAGE: 23_000, WRITES: 5_000, READS: 400, KEYS: 30_000}
    assert {kind: known.storage(kind, "us-east-1") for kind in of_a_store} == {
        kind: Rate(micros=micros, estimated=False, source="AWS") for kind, micros in of_a_store.items()
    }

    rows = count(engine, spot_prices)
    again = await run(pricing.refresh_prices, ALL)
    assert again.asked == 2 and again.new_pairs == [] and count(engine, spot_prices) - rows <= 2
    assert count(engine, spot_price_looks) == 2


async def test_a_pair_without_living_nodes_is_not_asked_for_again(
    engine: Engine, clients: Callable[[str, str], Any]
) -> None:
    pricing = Pricing(engine, clients)
    has_node(engine, "i-1")
    assert (await run(pricing.refresh_prices, ALL)).asked == 1
    has_node(engine, "i-1", state=NodeState.GONE, changed_at=NOW + HOUR, ended_at=NOW - HOUR)
    assert (await run(pricing.refresh_prices, ALL)).asked == 0, "its end lies before the last look"
    has_node(
        engine,
        "i-2",
        state=NodeState.GONE,
        ended_at=NOW - timedelta(days=100),
        changed_at=NOW - timedelta(days=100),
        kind="m5.large",
    )
    assert (await run(pricing.refresh_prices, ALL)).asked == 0, "AWS does not know prices of then any more"


async def test_ledgers_follow_prices(engine: Engine, clients: Callable[[str, str], Any]) -> None:
    pricing = Pricing(engine, clients)
    has_node(engine, "i-1")
    has_job(engine, "job-1", "i-1")
    begun = NOW - 10 * HOUR
    volume = VolumeLife(volume_id="v", zone=ZONES[0], volume_type="gp3", size_gib=10, created_at=begun)
    has_job(engine, "job-2", "i-1", volumes=[volume], state=JobState.SUCCEEDED, finished_at=NOW - 5 * HOUR)
    worked_out = await run(pricing.work_out_ledgers, WorkOutLedgers())
    assert worked_out.jobs == 1, "a finished job's is worked out when its record comes"
    before = instance_lines(engine, "job-1")
    assert len(before) >= 10 and all(line.estimated for line in before), "the shipped table"
    refreshed = await run(pricing.refresh_prices, NEW)
    assert (await run(pricing.work_out_ledgers, WorkOutLedgers(pairs=refreshed.new_pairs))).jobs == 2
    for job_id in ("job-1", "job-2"):
        after = instance_lines(engine, job_id)
        assert len(after) >= 5 and not any(line.estimated for line in after[:5]), "AWS's prices"
    with reading(engine) as session:
        kinds = (
            session.connection()
            .execute(text("SELECT sum(estimated_micros) FROM ledger WHERE kind = 'volume'"))
            .scalar()
        )
    assert kinds == 0, "storage too is priced as AWS lists it"
    grown = sum(line.instance_micros for line in instance_lines(engine, "job-1"))
    assert (await run(pricing.work_out_ledgers, WorkOutLedgers())).jobs == 1
    assert sum(line.instance_micros for line in instance_lines(engine, "job-1")) >= grown


def test_a_ledger_is_worked_out_of_the_newest_record(engine: Engine) -> None:
    has_node(engine, "i-1")
    job = has_job(engine, "job-1", "i-1")
    over = job.model_copy(update={"state": JobState.SUCCEEDED, "finished_at": NOW})

    def refresh() -> None:
        with writing(engine) as session:
            refresh_ledger(session, "job-1", NOW)

    other = threading.Thread(target=refresh)
    with writing(engine) as session:
        jobs.record_job(session, over, [], 2)
        other.start()
        other.join(1)
        assert other.is_alive(), "it waits for the record"
    other.join(PATIENCE)
    with reading(engine) as session:
        counted = select(func.sum(ledger.c.jobs_succeeded)).where(ledger.c.job_id == "job-1")
        assert session.connection().scalar(counted) == 1


async def test_ledgers_are_worked_out_in_batches(engine: Engine) -> None:
    pricing = Pricing(engine)
    has_node(engine, "i-1")
    has_node(engine, "i-2", ended_at=NOW - timedelta(minutes=1), state=NodeState.GONE)
    for number in range(5):
        has_job(engine, f"runs-{number}", "i-1")
    done: dict[str, Any] = {"state": JobState.FAILED}
    has_job(engine, "late", "i-1", finished_at=NOW - timedelta(minutes=5), **done)
    has_job(engine, "lost-its-node", "i-2", finished_at=NOW - 9 * HOUR, **done)
    has_job(engine, "old", "i-1", finished_at=NOW - 9 * HOUR, **done)
    request, seen = WorkOutLedgers(since=NOW - HOUR, limit=3), []
    while True:
        with reading(engine) as session:
            seen += prices.jobs_to_work_out(session, since=request.since, pairs=[], after=request.after, limit=3)
        answer = await run(pricing.work_out_ledgers, request)
        if answer.after is None:
            break
        assert answer.jobs == 3
        request = request.model_copy(update={"after": answer.after})
    assert seen == ["late", "lost-its-node", *(f"runs-{number}" for number in range(5))]


async def test_without_the_right_the_table_is_used_and_a_remark_says_why(
    engine: Engine, clients: Callable[[str, str], Any]
) -> None:
    has_node(engine, "i-1")
    has_node(engine, "i-2", ZONES[1])
    has_job(engine, "job-1", "i-1")
    with refusing(403, "UnauthorizedOperation") as denied:
        refreshed = await run(Pricing(engine, denied).refresh_prices, ALL)
    assert refreshed.new_pairs == [] and refreshed.points == 0
    assert any("ec2:DescribeSpotPriceHistory" in problem for problem in refreshed.problems)
    assert any("pricing:GetProducts" in problem for problem in refreshed.problems)
    assert all(line.estimated for line in instance_lines(engine, "job-1"))
    healed = await run(Pricing(engine, clients).refresh_prices, ALL)
    assert len(healed.new_pairs) == 2, "the right was granted: the next hour asks again"


async def test_aws_out_of_breath_is_tried_again_later(engine: Engine) -> None:
    has_node(engine, "i-1")
    with refusing(503, "RequestLimitExceeded") as busy, pytest.raises(CloudUnavailable):
        await run(Pricing(engine, busy).refresh_prices, ALL)
    with clients_of("http://127.0.0.1:9") as away, pytest.raises(CloudUnavailable):
        await run(Pricing(engine, away).refresh_prices, ALL)
    assert count(engine, spot_price_looks) == 0


async def test_what_aws_does_not_know_spoils_nothing_else(engine: Engine, clients: Callable[[str, str], Any]) -> None:
    has_node(engine, "i-0", kind="a\n'; DROP TABLE jobs; --")
    has_node(engine, "i-1")
    has_node(engine, "i-2", "Mars", region="attacker.example/")
    refreshed = await run(Pricing(engine, clients).refresh_prices, ALL)
    assert [pair.instance_type for pair in refreshed.new_pairs] == ["c5.large"] and len(refreshed.problems) >= 2
    assert (await run(Pricing(engine, clients).refresh_prices, NEW)).asked == 0, (
        "asked again with all others, each hour"
    )
    assert count(engine, spot_price_looks) == 3


def test_old_points_go_but_the_one_that_holds_stays(engine: Engine) -> None:
    points = [PricePoint(at=NOW - number * HOUR, micros_per_hour=1000 + number) for number in range(10)]
    with writing(engine) as session:
        prices.save_spot_points(session, "c5.large", ZONES[0], points, known_until=NOW)
        prices.save_spot_points(session, "c5.large", ZONES[1], points[5:], known_until=NOW)
    with writing(engine) as session:
        assert prices.forget_old_points(session, NOW - 4.5 * HOUR) == 8
    with reading(engine) as session:
        both = {("c5.large", zone) for zone in ZONES}
        known = prices.load_prices(session, both, set(), NOW - 4.5 * HOUR, NOW)
    for zone in ZONES:
        assert known.spot("c5.large", zone).cost(NOW - 4.5 * HOUR, NOW - 4 * HOUR).micros in {502, 503}
    has_node(engine, "i-1")
    has_job(engine, "old", "i-1", created_at=NOW - 7 * HOUR)
    with writing(engine) as session:
        assert prices.forget_old_points(session, NOW) == 0, "a job still runs that began then"
