"""Reports over HTTP, of a recorded history whose every figure is worked out by hand here, on both databases."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from api.app import create_app
from api.wire.report_responses import LedgerEntryView
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.figures import LedgerEntry
from perdure.domain.jobs import Attempt, Job, JobState, Outage
from perdure.domain.nodes import Node
from perdure.domain.prices import PricePoint
from perdure.domain.reports import METRICS
from perdure.domain.rollups import Level, bucket_start
from perdure.domain.volumes import VolumeLife
from perdure.records.costs import prices
from perdure.records.jobs.jobs import record_job
from perdure.records.nodes.nodes import record_node
from perdure.records.schema.database import migrate, open_engine, writing
from perdure.settings import ApiSettings
from tests.integration.asking import Asker, asking
from tests.integration.postgres_bed import running_postgres

# Minutes are kept for seven days: the history is two days old, whenever this runs.
TEN = bucket_start(Level.DAY, datetime.now(UTC)) - timedelta(days=2) + timedelta(hours=10)
A, B, C = "us-east-1a", "us-east-1b", "us-east-1c"
# Micro-dollars per second: 10 on the instance in A, 20 in B, 30 on demand. The job has half an instance.
PER_HOUR = {A: 36_000, B: 72_000}
ON_DEMAND = 108_000
# 100 GiB at 0.08 $ per GiB-month for 7,500 s: full months have 28 to 31 days.
_MONTH = (TEN.replace(day=28) + timedelta(days=4)).replace(day=1) - TEN.replace(day=1)
VOLUME = 8_000_000 * 7500 / _MONTH.total_seconds()


def at(seconds: float) -> datetime:
    return TEN + timedelta(seconds=seconds)


def node(instance_id: str, zone: str, instance_type: str = "m5.large") -> Node:
    return Node(
        instance_id=instance_id,
        zone=zone,
        region="us-east-1",
        instance_type=instance_type,
        pay_type="spot",
        vcpus=2,
        launched_at=TEN - timedelta(hours=3),
        changed_at=TEN,
    )


def attempt(epoch: int, node: Node, accepted: float, started: float, ended: float, **more: Any) -> Attempt:
    return Attempt(
        epoch=epoch,
        attempt=epoch,
        instance_id=node.instance_id,
        zone=node.zone,
        container_id="c",
        accepted_at=at(accepted),
        started_at=at(started),
        ended_at=at(ended),
        **more,
    )


RECLAIMED = Job(
    job_id="job-reclaimed",
    name="align",
    queue="spot",
    state=JobState.SUCCEEDED,
    vcpus=1,
    created_at=at(0),
    changed_at=at(7500),
    finished_at=at(7500),
    epoch=2,
    attempts=[
        attempt(1, node("i-a", A), 0, 10, 3600, batch_stopped_at=at(3630)),
        attempt(2, node("i-b", B), 3780, 3900, 7500, restored_from=3, restore_failures=1),
    ],
    checkpoints=[
        Checkpoint(
            number=2,
            kind=CheckpointKind.PERIODIC,
            epoch=1,
            frozen_at=at(1800),
            committed_at=at(1810),
            phases={"frozen": 4.0},
        )
    ],
    checkpoints_committed=3,
    checkpoint_failures=1,
    protections=1,
    outages=[
        Outage(
            epoch=1,
            kind="notice",
            started_at=at(3600),
            ended_at=at(3900),
            seconds=300.0,
            phases={"frozen": 2, "dumped": 28, "detached": 30, "waited": 120, "attached": 20, "restored": 100},
            restored_from=3,
            work_lost_seconds=0.0,
        )
    ],
    volumes=[
        VolumeLife(
            volume_id="vol-1",
            zone=A,
            volume_type="gp3",
            size_gib=100,
            created_at=at(0),
            deleted_at=at(7500),
        )
    ],
)
GUESSED = Job(  # AWS named no Spot price in C: 40 % of on-demand, 12 micro-dollars a second
    job_id="job-guessed",
    queue="=spot",
    state=JobState.FAILED,
    vcpus=1,
    created_at=at(10_800),
    changed_at=at(10_900),
    finished_at=at(10_900),
    epoch=1,
    attempts=[attempt(1, node("i-c", C), 10_800, 10_800, 10_900)],
)
UNPRICED = Job(
    job_id="job-unpriced",
    queue="odd",
    state=JobState.RUNNING,
    vcpus=2,
    created_at=at(14_400),
    changed_at=at(14_760),
    epoch=1,
    attempts=[attempt(1, node("i-x", C, "x9.unknown"), 14_400, 14_400, 14_760)],
)


def fill(engine: Engine) -> None:
    with writing(engine) as session:
        for zone, micros in PER_HOUR.items():
            points = [PricePoint(at=TEN - timedelta(days=1), micros_per_hour=micros)]
            prices.save_spot_points(session, "m5.large", zone, points, known_until=TEN + timedelta(days=1))
        prices.save_on_demand(session, "m5.large", "us-east-1", ON_DEMAND, at=TEN)
        prices.save_storage(session, "us-east-1", {"gp3": 80_000}, at=TEN)
        for name, zone, kind in (("a", A, "m5"), ("b", B, "m5"), ("c", C, "m5"), ("x", C, "x9")):
            record_node(session, node(f"i-{name}", zone, "m5.large" if kind == "m5" else "x9.unknown"))
    for job in (RECLAIMED, GUESSED, UNPRICED):
        with writing(engine) as session:
            record_job(session, job, [], 1)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:9")
        if request.param == "sqlite":
            yield from serve(f"sqlite:///{tmp_path_factory.mktemp('reports')}/perdure.db")
        else:
            with running_postgres() as server:
                yield from serve(server.new_database())


def serve(url: str) -> Iterator[Asker]:
    engine = open_engine(url)
    migrate(engine)
    fill(engine)
    engine.dispose()
    with asking(create_app(ApiSettings(database_url=url)), "http://127.0.0.1", "127.0.0.1") as asker:
        yield asker


def ask(api: Asker, path: str, **query: object) -> Any:
    response = api.get(f"/api/v1{path}", params={name: str(value) for name, value in query.items()})
    assert response.status_code == 200, response.text
    return response.json()


def exact(report: Any) -> dict[str, int]:
    return {metric["name"]: metric["exact"] for metric in report["metrics"] if metric["exact"] is not None}


def naive(report: Any) -> dict[str, int]:
    return {metric["name"]: metric["naive"]["exact"] for metric in report["metrics"] if metric["naive"]}


def assert_near(found: dict[str, int], by_hand: dict[str, float]) -> None:
    """To the micro-dollar; all that is not named is 0."""
    for name, value in found.items():
        assert abs(value - by_hand.get(name, 0)) <= 1, name
    assert set(by_hand) <= set(found)


WITH_NOTICE = 30 * 10  # freeze and dump: the whole instance in A, micro-dollars
ONE_JOB: dict[str, float] = {
    "total_jobs": 1,
    "jobs_succeeded": 1,
    "spot_protections": 1,
    "job_cpu_hours": (3590 + 3600) * 1000,  # 1 vCPU
    "run_time": (3590 + 3600) * 1000,
    "instance_cost": (3630 * 10 + 3720 * 20) / 2,
    "volume_cost": VOLUME,
    "total_cost": (3630 * 10 + 3720 * 20) / 2 + VOLUME,
    # The run in A; less freeze and dump there, less accepted … restored in B
    "spot_savings_cost": (3590 * 10 - WITH_NOTICE - 120 * 20) / 2,
    "spot_savings_cpu_hours": (3590 - 2 - 28 - 30 - 20 - 100) * 1000,
    "saved_time": (3590 - 2 - 28 - 30 - 20 - 100) * 1000,
    # On demand: neither freeze and dump (30 s) nor the restore (120 s), the first wait (10 s), the freeze (4 s)
    "on_demand_savings_cost": (3630 + 3720) * 30 - (30 + 120 + 10 + 4) * 30 - 3630 * 10 - 3720 * 20 - VOLUME,
    "net_savings": (3590 * 10 - WITH_NOTICE - 120 * 20) / 2 - 4 * 10 / 2 - 10 * 10 / 2 - VOLUME,
    "frozen_time": 4000,
    "frozen_cost": 4 * 10 / 2,
    "wait_cost": 10 * 10 / 2,
    "checkpoint_attempts": 4,
    "checkpoint_successes": 3,
    "checkpoint_failures": 1,
    "restore_attempts": 2,
    "restore_successes": 1,
    "restore_failures": 1,
}
ONE_JOB_NAIVE: dict[str, float] = {
    "run_time": (3620 + 3600) * 1000,
    "instance_cost": 3630 * 10 + 3720 * 20,
    "spot_savings_cost": 3620 * 10,
    "spot_savings_cpu_hours": 3620 * 1000,
    "saved_time": 3620 * 1000,
    "on_demand_savings_cost": (3630 + 3720) * 30 - 3630 * 10 - 3720 * 20,
    "net_savings": 3620 * 10,
}


@pytest.mark.parametrize("query", [{"job": "job-reclaimed"}, {"queue": "spot"}, {"start": at(0), "end": at(7800)}])
def test_a_job_by_hand(api: Asker, query: dict[str, object]) -> None:
    report = ask(api, "/report", **query)
    assert_near(exact(report), ONE_JOB)
    assert_near(naive(report), ONE_JOB_NAIVE)
    assert '"title":"Total Jobs","group":"jobs","unit":"count","value":1,' in json.dumps(report, separators=(",", ":"))
    rates = {metric["name"]: metric["value"] for metric in report["metrics"] if metric["unit"] == "share"}
    assert rates == {"checkpoint_success_rate": 0.75, "restore_success_rate": 0.5}
    assert {metric["estimated_share"] for metric in report["metrics"]} == {None, 0.0}
    assert report["remark"] == "All costs rest on prices that AWS named."


def test_each_figure_is_explained(api: Asker) -> None:
    report = ask(api, "/report", job="job-reclaimed")
    assert [metric["name"] for metric in report["metrics"]] == [metric.name for metric in METRICS]
    cost = next(metric for metric in report["metrics"] if metric["name"] == "spot_savings_cost")
    assert cost["title"] == "EC2 Spot Savings - Instance Cost Saved"
    assert (cost["unit"], cost["exact_unit"]) == ("USD", "micro-dollars")
    assert (cost["value"], cost["exact"]) == (0.0166, 16_600)
    assert (cost["naive"]["value"], cost["naive"]["exact"]) == (0.0362, 36_200)
    assert "less the work that had to be done again" in cost["formula"]
    assert "nothing subtracted" in cost["naive"]["formula"]


def test_all_jobs_and_what_is_estimated(api: Asker) -> None:
    report = ask(api, "/report")
    assert report["span"] == {"start": None, "end": None, "queue": None, "job_id": None, "widened": False}
    found = exact(report)
    assert (found["total_jobs"], found["jobs_succeeded"], found["jobs_failed"], found["jobs_stopped"]) == (3, 1, 1, 0)
    assert found["instance_cost"] == 55_350 + 100 * 12 // 2
    assert found["unpriced_time"] == 360_000
    shares = {metric["name"]: metric["estimated_share"] for metric in report["metrics"]}
    assert shares["instance_cost"] == round(1200 / (110_700 + 1200), 6)
    assert shares["volume_cost"] == 0
    assert "rest on estimated prices" in report["remark"] and "For 0.1 hours no price is known" in report["remark"]


@pytest.mark.parametrize(
    ("start", "end", "counted"),
    [
        # The second hour: 30 s in A, then B from 3,780 s on. Costs are booked by the hour.
        (3600, 7200, {"instance_cost": (30 * 10 + 3420 * 20) / 2, "spot_protections": 1, "run_time": 3300_000}),
        (3900, 3960, {"spot_protections": 1}),  # the minute in which it went on
        (3960, 7200, {"run_time": 0, "spot_protections": 0}),
        (7200, 7800, {"instance_cost": 300 * 20 / 2, "jobs_succeeded": 1, "run_time": 300_000}),
        (-86_400, 0, {"total_jobs": 0, "instance_cost": 0}),
        (0, 60, {"total_jobs": 1}),
    ],
)
def test_spans_are_summed_to_the_minute(api: Asker, start: int, end: int, counted: dict[str, float]) -> None:
    report = ask(api, "/report", start=at(start), end=at(end))
    found = exact(report)
    assert {name: found[name] for name in counted} == counted
    assert not report["span"]["widened"]


def test_ragged_bounds_are_widened_and_said(api: Asker) -> None:
    span = ask(api, "/report", start=at(3900.5), end=at(3900.6))["span"]
    assert span["widened"]
    assert [datetime.fromisoformat(span[bound]) for bound in ("start", "end")] == [at(3900), at(3960)]
    old = ask(api, "/report", start="2020-01-01T05:30:00Z", end="2020-01-02T05:30:00Z")["span"]
    assert (old["start"], old["end"]) == ("2020-01-01T00:00:00Z", "2020-01-03T00:00:00Z")


def test_engineering_mode_shows_every_sum_and_each_queue(api: Asker) -> None:
    report = ask(api, "/report", detail="true")
    assert report["figures"]["redone_on_demand_micros"] == (30 + 120 + 10 + 4) * 30
    assert report["figures"]["volume_attach_ms"] == 20_000
    assert [queue["queue"] for queue in report["queues"]] == ["=spot", "odd", "spot"]
    spot = report["queues"][2]["metrics"]
    assert_near({name: amount["exact"] for name, amount in spot.items() if amount["exact"] is not None}, ONE_JOB)
    plain = ask(api, "/report")
    assert plain["figures"] is None and plain["queues"] is None
    alone = ask(api, "/report", detail="true", queue="spot")["queues"]
    assert [queue["queue"] for queue in alone] == ["spot"] and alone[0] == report["queues"][2]


def test_queues(api: Asker) -> None:
    found = {queue["queue"]: queue for queue in ask(api, "/queues")}
    assert {name: (queue["jobs_submitted"], queue["jobs_running"]) for name, queue in found.items()} == {
        "=spot": (1, 0),
        "odd": (1, 1),
        "spot": (1, 0),
    }
    assert found["spot"]["metrics"]["instance_cost"] == {
        "value": 0.05535,
        "exact": 55_350,
        "naive_value": 0.1107,
        "naive_exact": 110_700,
    }
    later = {queue["queue"]: queue["jobs_submitted"] for queue in ask(api, "/queues", start=at(7800))}
    assert later == {"=spot": 1, "odd": 1}


def test_the_lines_of_a_job_add_up_to_its_report(api: Asker) -> None:
    sums: dict[str, int] = {}
    seen, cursor = [], ""
    while True:
        page = ask(api, "/jobs/job-reclaimed/ledger", limit=3, **({"cursor": cursor} if cursor else {}))
        seen += page["items"]
        if page["next"] is None:
            break
        cursor = page["next"]
    for line in seen:
        for name, value in line["figures"].items():
            sums[name] = sums.get(name, 0) + value
    figures = ask(api, "/report", job="job-reclaimed", detail="true")["figures"]
    assert sums == {name: value for name, value in figures.items() if value}
    assert [line["at"] for line in seen] == sorted(line["at"] for line in seen)
    assert len({line["key"] for line in seen}) == len(seen)
    protection = next(line for line in seen if line["kind"] == "protection")
    assert protection["detail"]["preserved_seconds"] == 3590 and protection["detail"]["overhead_seconds"] == 180
    assert api.get("/api/v1/jobs/job-none/ledger").status_code == 404
    assert api.get("/api/v1/jobs/job-reclaimed/ledger", params={"cursor": "x"}).status_code == 422


def test_a_series_is_dense(api: Asker) -> None:
    series = ask(api, "/report/series", metric="run_time", level="hour", start=at(-3600), end=at(10_800), queue="spot")
    assert [point["exact"] for point in series["points"]] == [0, 3590_000, 3300_000, 300_000]
    assert [point["naive_exact"] for point in series["points"]] == [0, 3590_000, 3330_000, 300_000]
    assert [datetime.fromisoformat(point["at"]) for point in series["points"]] == [
        at(3600 * hour) for hour in (-1, 0, 1, 2)
    ]
    assert (series["unit"], series["exact_unit"]) == ("hours", "milliseconds")
    minutes = ask(api, "/report/series", metric="spot_protections", level="minute", start=at(3840), end=at(4020))
    assert [point["value"] for point in minutes["points"]] == [0, 1, 0]
    days = ask(api, "/report/series", metric="total_jobs", level="day")
    assert len(days["points"]) == 90 and sum(point["value"] for point in days["points"]) == 3
    assert days["kept"] == [
        {"level": "minute", "days": 7},
        {"level": "hour", "days": 90},
        {"level": "day", "days": None},
    ]
    rate = ask(api, "/report/series", metric="restore_success_rate", start=at(0), end=at(7200))
    assert [point["value"] for point in rate["points"]] == [None, 0.5]


def test_a_series_begins_where_its_level_is_kept(api: Asker) -> None:
    series = ask(api, "/report/series", level="hour", start="2020-01-01T00:00:00Z", end=TEN)
    kept = bucket_start(Level.DAY, datetime.now(UTC)) - timedelta(days=90)
    assert datetime.fromisoformat(series["start"]) in (kept, kept + timedelta(days=1))


def test_the_wire_keeps_step_with_the_domain() -> None:
    assert set(LedgerEntryView.model_fields) == set(LedgerEntry.model_fields) - {"job_id"}


@pytest.mark.parametrize(
    ("path", "query", "words"),
    [
        ("/report", {"start": at(10), "end": at(5)}, ["ends before it begins"]),
        ("/report", {"start": "yesterday"}, ["query.start"]),
        ("/report", {"start": "2026-01-01T00:00:00"}, ["time", "zone"]),
        ("/report", {"start": "0001-01-01T00:00:00+14:00"}, ["start"]),
        ("/report", {"end": "9999-12-31T23:59:59.9Z"}, ["end"]),
        ("/report", {"queue": "a b"}, ["query.queue"]),
        ("/report", {"job": "job-reclaimed", "queue": "spot"}, ["leave them out"]),
        ("/report/series", {"metric": "savings"}, ["metrics are total_jobs, "]),
        ("/report/series", {"level": "week"}, ["query.level"]),
        ("/report/series", {"level": "minute", "start": at(-432_000 + 86_400)}, ["2,500", "coarser"]),
        ("/report/series", {"start": "2999-01-01T00:00:00Z"}, ["no point"]),
        ("/report/series", {"start": "0001-01-01T00:00:00+14:00"}, ["start"]),
        ("/metricValue/system-total/metricDef-cost", {}, ["metricDef-runtime"]),
        ("/metricValue/system-total/metricDef-runtime", {"interval": "often"}, ["interval", "15m"]),
        ("/metricValue/system-total/metricDef-runtime", {"start": "noon"}, ["start", "since 1970"]),
        ("/metrics/summary", {"start": "9" * 20, "end": "1"}, ["start"]),
    ],
)
def test_bad_questions_are_named(api: Asker, path: str, query: dict[str, object], words: list[str]) -> None:
    response = api.get(f"/api/v1{path}", params={name: str(value) for name, value in query.items()})
    assert response.status_code == 422, response.text
    assert response.json()["error"]["code"] == "invalid_request"
    for word in words:
        assert word in json.dumps(response.json(), ensure_ascii=False)


def test_an_unknown_job_is_404(api: Asker) -> None:
    assert api.get("/api/v1/report", params={"job": "job-none"}).status_code == 404


def test_the_table(api: Asker) -> None:
    response = api.get("/api/v1/report.csv")
    assert response.headers["content-type"].startswith("text/csv")
    until_today = r'attachment; filename="perdure-report-\d{4}-\d\d-\d\d\.csv"'
    assert re.fullmatch(until_today, response.headers["content-disposition"])
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert [row["queue"] for row in rows] == ["'=spot", "odd", "spot", "(all queues)"], "no formula for a spreadsheet"
    spot, together = rows[2], rows[3]
    assert (spot["instance_cost_usd"], spot["instance_cost_usd_naive"]) == ("0.055350", "0.110700")
    assert (spot["spot_savings_cost_usd"], spot["spot_savings_cost_usd_naive"]) == ("0.016600", "0.036200")
    assert float(spot["net_savings_usd"]) < 0 and spot["net_savings_usd"][0] == "-", "a number, not a text"
    assert spot["run_hours"] == "1.997222222" and spot["checkpoint_success_rate"] == "0.75"
    assert spot["total_jobs"] == "1" and together["total_jobs"] == "3"
    assert rows[1]["checkpoint_success_rate"] == "" and rows[1]["lost_hours"] == "0.000000000"
    assert len(rows[0]) == 1 + len(METRICS) + sum(1 for metric in METRICS if metric.naive) + len(("start", "end"))
    assert response.text.count("\r\n") == 5
    of_march = {"start": "2026-03-01T00:00:00Z", "end": "2026-04-01T00:00:00Z"}
    month = api.get("/api/v1/report.csv", params=of_march)
    assert 'filename="perdure-report-2026-03-01-to-2026-04-01.csv"' in month.headers["content-disposition"]
    assert {(row["start"], row["end"]) for row in csv.DictReader(io.StringIO(month.text))} == {tuple(of_march.values())}


# MMBatch's own endpoints


def test_mmbatch_summary(api: Asker) -> None:
    found = ask(api, "/metrics/summary", start=int(TEN.timestamp()), end=int(at(10_800).timestamp() * 1000))
    spot = {"jobSubmitted": 1, "runtime": 7190.0, "spotProtection": 1, "timeSaved": 3620.0}
    assert found["total"] == {"queueName": "system-total", **spot}
    assert found["queues"] == [{"queueName": "spot", **spot}]
    assert datetime.fromisoformat(found["start"]) == TEN
    assert ask(api, "/metrics/summary")["total"]["jobSubmitted"] == 3


def test_mmbatch_metric_values(api: Asker) -> None:
    ids = {definition["id"] for definition in ask(api, "/metric")}
    names = ("jobSubmitted", "runtime", "spotProtection", "timeSaved", "volumeAttachTime")
    assert ids == {f"metricDef-{name}" for name in names}
    span = {"start": TEN.isoformat(), "end": at(10_800).isoformat()}

    def values(metric: str, of: str = "system-total", interval: str = "1h") -> list[float | None]:
        found = ask(api, f"/metricValue/{of}/metricDef-{metric}", interval=interval, **span)
        return [value["value"] for value in found["values"]]

    assert values("jobSubmitted") == [1, 0, 0]
    assert values("runtime") == [3590, 3300, 300]
    assert values("runtime", "spot") == [3590, 3300, 300] and values("runtime", "odd") == [0, 0, 0]
    assert values("spotProtection") == [0, 1, 0]
    assert values("timeSaved") == [0, 3620, 0]
    assert values("volumeAttachTime") == [None, 20, None]
    assert len(values("jobSubmitted", interval="30m")) == 180 and len(values("jobSubmitted", interval="24h")) == 1
