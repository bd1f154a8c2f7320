"""Lists, details, exports and MMBatch's shapes of jobs, nodes and events, over HTTP."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import Session

from api.app import create_app
from api.serving.csv import csv_chunks
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.jobs import Attempt, Job, JobEvent, JobState
from perdure.domain.ledger import Figures, LedgerEntry
from perdure.domain.nodes import Node, NodeState
from perdure.domain.orphans import Orphan, OrphanKind, Tagged
from perdure.domain.volumes import VolumeLife
from perdure.records.costs.ledger import store_lines
from perdure.records.jobs import orphans
from perdure.records.jobs.jobs import record_job
from perdure.records.nodes.nodes import record_node
from perdure.records.schema.database import migrate, open_engine, writing
from perdure.settings import ApiSettings

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LOST: dict[str, Any] = {
    "kind": OrphanKind.VOLUME,
    "job_id": "gone",
    "installation": "",
    "place": "us-east-1a",
    "volume_type": "gp3",
    "size_gib": 100,
    "created_at": NOON,
}
FORMULA = '=HYPERLINK("http://evil","x")'


def fill(session: Session) -> None:
    for number in range(7):
        attempts = [
            Attempt(
                epoch=epoch,
                attempt=epoch,
                instance_id=f"i-{epoch}",
                zone="us-east-1a",
                container_id=f"c{epoch}",
                accepted_at=NOON + timedelta(minutes=number, hours=epoch),
                started_at=NOON + timedelta(minutes=number, hours=epoch, seconds=9),
                ended_at=NOON + timedelta(hours=2 + epoch),
            )
            for epoch in (1, 2)
        ]
        checkpoint = Checkpoint(
            number=1,
            kind=CheckpointKind.PERIODIC,
            epoch=1,
            frozen_at=NOON + timedelta(hours=1, minutes=30),
            committed_at=NOON + timedelta(hours=1, minutes=31),
            image_bytes=5,
            phases={"frozen": 0.5, "dump": 3.0, "sync": 1.0, "checksums": 0.5, "commit": 0.25},
        )
        job = Job(
            job_id=f"job-{number}",
            name=FORMULA if number == 3 else f"align-{number}",
            queue="spot" if number % 2 else "default",
            state=JobState.SUCCEEDED if number else JobState.RUNNING,
            created_at=NOON + timedelta(minutes=number),
            changed_at=NOON + timedelta(hours=5),
            finished_at=NOON + timedelta(hours=5) if number else None,
            epoch=2,
            attempts=attempts,
            checkpoints=[checkpoint],
            checkpoints_committed=1,
            checkpoint_failures=1,
            protections=1,
            volumes=[
                VolumeLife(
                    volume_id=f"vol-{number}", zone="us-east-1a", volume_type="gp3", size_gib=10, created_at=NOON
                )
            ],
        )
        kinds = ["attached", "started", "checkpoint", "notice", "attached", "restored", "finished"]
        events = [
            JobEvent(
                sequence=place,
                at=job.created_at + timedelta(minutes=place),
                kind=kind,
                message=f"line {place}",
                level="warning" if kind == "notice" else "info",
                epoch=1 if place < 5 else 2,
            )
            for place, kind in enumerate(kinds, 1)
        ]
        record_job(session, job, events, 1)
    for number, state in ((1, NodeState.GONE), (2, NodeState.READY)):
        node = Node(
            instance_id=f"i-{number}",
            zone="us-east-1a",
            instance_type="x9.unknown",
            state=state,
            changed_at=NOON,
            launched_at=NOON,
            ended_at=NOON + timedelta(hours=3) if state == NodeState.GONE else None,
            ended_by="aws" if state == NodeState.GONE else "",
            pay_type="spot",
            region="us-east-1",
            ips=["10.0.0.1", "10.0.0.2"],
            host_name="@SUM(1)",
            cpu_model='Two\nlines, "quoted"',
            vcpus=2,
            memory_mib=8192,
        )
        record_node(session, node)
    lost = [Tagged(**LOST, resource_id=f"vol-lost-{number}") for number in range(3)]
    orphans.note(session, [Orphan(thing=one, reason="its job is over") for one in lost], NOON)
    cost = Figures(share_micros=1_250_000, instance_micros=2_500_000, cpu_ms=7_200_000)
    for number in (1, 2):
        entry = LedgerEntry(job_id=f"job-{number}", key="instance/1/whole", kind="instance", at=NOON, figures=cost)
        store_lines(session, f"job-{number}", "spot", {}, [entry])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    url = f"sqlite:///{tmp_path_factory.mktemp('lists')}/perdure.db"
    engine = open_engine(url)
    migrate(engine)
    with writing(engine) as session:
        fill(session)
    engine.dispose()
    app = create_app(ApiSettings(database_url=url))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1/api/v1") as client,
    ):
        yield client


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def got(client: httpx.AsyncClient, path: str, **query: Any) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_jobs_are_filtered_sorted_and_paged(client: httpx.AsyncClient) -> None:
    async def ids(**query: Any) -> list[str]:
        return [item["job_id"][4:] for item in (await got(client, "/jobs", **query))["items"]]

    assert await ids() == list("6543210")
    assert await ids(queue="spot") == list("531")
    assert await ids(queue=["spot", "default"], status="Running") == ["0"]
    assert await ids(q="ALIGN-4") == ["4"] and await ids(q='"') == ["3"]
    assert await ids(created_after="2026-03-01T12:05:00Z") == list("65")
    assert await ids(finished_before="2026-03-01T17:00:00Z") == []
    assert await ids(sort="created_at", limit=2) == list("01")
    assert await ids(sort="-finished_at") == list("654321"), "what is not finished is left out"
    first = await got(client, "/jobs", limit=4, queue="default")
    assert first["next"] is None
    first = await got(client, "/jobs", limit=3, queue="default")
    rest = await got(client, "/jobs", limit=3, queue="default", cursor=first["next"])
    assert [item["job_id"] for item in rest["items"]] == ["job-0"] and rest["next"] is None


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/jobs", {"sort": "message"}),
        ("/jobs", {"created_after": "2026-03-01T12:00:00"}),
        ("/jobs", {"created_after": "yesterday"}),
        ("/jobs", {"q": "a\0b"}),
        ("/jobs", {"q": "x" * 201}),
        ("/jobs", {"queue": "a;b"}),
        ("/jobs", {"queue": ["q"] * 21}),
        ("/jobs", {"status": "Sleeping"}),
        ("/jobs", {"cursor": "AAAA"}),
        ("/nodes", {"sort": "state"}),
        ("/nodes", {"state": "away"}),
        ("/nodes", {"zone": "\n"}),
        ("/nodes.csv", {"state": "away"}),
        ("/nodes/..%2f..%2fetc", {}),
        ("/events", {"kind": "' OR 1=1"}),
        ("/events", {"level": "loud"}),
        ("/events", {"job": "a b"}),
        ("/stream", {"job": "a b"}),
        ("/stream", {"seconds": "0"}),
        ("/job", {"limit": "1001"}),
    ],
)
async def test_what_cannot_be_meant_is_refused(client: httpx.AsyncClient, path: str, query: dict[str, Any]) -> None:
    answer = await client.get(path, params=query)
    assert answer.status_code in (404, 422), answer.text
    assert set(answer.json()["error"]) == {"code", "message", "details"}


async def test_a_cursor_of_another_query_is_refused(client: httpx.AsyncClient) -> None:
    cursor = (await got(client, "/jobs", limit=1))["next"]
    answer = await client.get("/jobs", params={"limit": 1, "cursor": cursor, "queue": "spot"})
    assert answer.status_code == 422 and "first page" in answer.json()["error"]["message"]


async def test_events_of_all_jobs(client: httpx.AsyncClient) -> None:
    newest = await got(client, "/events", limit=2)
    assert [(item["job_id"], item["kind"]) for item in newest["items"]] == [
        ("job-6", "finished"),
        ("job-6", "restored"),
    ]
    seen: list[tuple[str, int]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await got(client, "/events", limit=11, **cursor)
        seen += [(item["job_id"], item["sequence"]) for item in page["items"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert len(seen) == len(set(seen)) == 49
    assert {item["kind"] for item in (await got(client, "/events", kind="notice"))["items"]} == {"notice"}
    assert len((await got(client, "/events", level=["warning", "error"]))["items"]) == 7
    assert len((await got(client, "/events", job="job-1", level=["info"]))["items"]) == 6
    few = await got(client, "/events", since="2026-03-01T12:12:00Z", before="2026-03-01T12:13:00Z")
    assert [item["job_id"] for item in few["items"]] == ["job-6", "job-5"]
    assert (await client.get("/events", params={"kind": "notice", "cursor": newest["next"]})).status_code == 422


async def test_a_node_tells_what_it_did(client: httpx.AsyncClient) -> None:
    node = await got(client, "/nodes/i-1")
    assert (node["jobs"], node["attempts"], node["checkpoints"], node["cost_usd"]) == (7, 7, 7, 2.5)
    assert node["runs"][0]["job_id"] == "job-6" and node["runs"][0]["name"] == "align-6"
    other = await got(client, "/nodes/i-2")
    assert (other["jobs"], other["checkpoints"], other["cost_usd"]) == (7, 0, 0)
    assert (await client.get("/nodes/i-9")).status_code == 404


async def test_a_job_tells_what_it_cost_and_how_its_checkpoints_went(client: httpx.AsyncClient) -> None:
    job = await got(client, "/jobs/job-1")
    assert job["costs"] | {"cpu_hours": 2.0, "instance_cost_usd": 2.5, "cost_share_usd": 1.25} == job["costs"]
    (checkpoint,) = job["checkpoints"]
    seconds = [checkpoint[f"{what}_seconds"] for what in ("freeze", "dump", "upload")]
    assert seconds == [0.5, 3.0, 1.75]


async def table(client: httpx.AsyncClient, path: str, **query: Any) -> list[dict[str, str]]:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="perdure-{path[1:]}"'
    return list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))


async def test_nodes_as_csv(client: httpx.AsyncClient) -> None:
    (gone,) = await table(client, "/nodes.csv")
    assert gone == {
        "id": "i-1", "ips": "10.0.0.1 10.0.0.2", "hostName": "'@SUM(1)", "cloud": "aws", "arch": "", "cores": "2",
        "cpuModel": 'Two\nlines, "quoted"', "cpuVendor": "", "memoryInMB": "8192", "zone": "us-east-1a",
        "instanceId": "i-1", "instanceType": "x9.unknown", "region": "us-east-1", "createTime": "2026-03-01T12:00:00Z",
        "payType": "spot", "lastHeartbeat": "2026-03-01T12:00:00Z", "state": "gone", "firstSeenAt": "",
        "endTime": "2026-03-01T15:00:00Z", "endedBy": "aws", "jobsRun": "7", "checkpoints": "7",
        "costUsd": "2.500000", "costEstimated": "true",
    }  # fmt: skip
    assert [row["id"] for row in await table(client, "/nodes.csv", state="all")] == ["i-1", "i-2"]
    assert await table(client, "/nodes.csv", zone="us-east-1b") == []


async def test_jobs_as_csv(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.routes.exports.PER_PAGE", 3)
    rows = await table(client, "/jobs.csv")
    assert [row["job_id"] for row in rows] == [f"job-{number}" for number in (6, 5, 4, 3, 2, 1, 0)]
    assert rows[3]["name"] == "'" + FORMULA
    assert (rows[5]["cpu_hours"], rows[5]["instance_cost_usd"], rows[5]["cost_share_usd"]) == (
        "2.0",
        "2.500000",
        "1.250000",
    )
    chosen = await table(client, "/jobs.csv", queue="spot", status="Succeeded", q="align", sort="created_at")
    assert [row["job_id"] for row in chosen] == ["job-1", "job-5"]


@given(st.lists(st.text(), min_size=1, max_size=4))
@pytest.mark.asyncio(loop_scope="function")
async def test_any_text_comes_back_and_none_is_a_formula(texts: list[str]) -> None:
    written = b"".join(csv_chunks(["a"] * len(texts), [texts])).decode()
    _, row = csv.reader(io.StringIO(written, newline=""))
    for text, back in zip(texts, row, strict=True):
        plain = text.encode("utf-8", "replace").decode()
        assert back in (plain, "'" + plain)
        assert not back.startswith(("=", "+", "-", "@", "\t", "\r"))


async def test_jobs_in_mmbatchs_shape(client: httpx.AsyncClient) -> None:
    answer = await client.get("/job", params={"limit": 2})
    assert [job["id"] for job in answer.json()] == ["job-6", "job-5"]
    following = await client.get("http://127.0.0.1" + answer.headers["link"].split(">")[0][1:])
    assert [job["id"] for job in following.json()] == ["job-4", "job-3"]
    job = await got(client, "/job/job-1")
    assert job == answer.json()[0] | {
        "id": "job-1", "queueName": "spot", "createdAt": "2026-03-01T12:01:00Z", "batchJobIds": ["job-1"],
        "volumeIds": ["vol-1"], "events": job["events"],
    }  # fmt: skip
    assert job["status"] == "Succeeded" and job["spotProtCount"] == 1 and job["nodeOid"] == "i-2"
    assert (job["checkpointAttempts"], job["checkpointSucceeded"], job["containerId"]) == (2, 1, "c2")
    assert [event["eventType"] for event in job["events"]] == [
        "Volume-Created", "Job-Creating", "Job-Created", "Job-Running", "Job-CheckpointSucceeded",
        "Job-Checkpointing", "Job-Restoring", "Job-RestoreSucceeded", "Job-Succeeded", "Volume-Attached",
        "Volume-Attached",
    ]  # fmt: skip
    assert job["events"][0] == {
        "timestamp": "2026-03-01T12:00:00Z", "eventType": "Volume-Created", "nodeOid": "", "containerId": "",
        "batchJobId": "job-1", "volumnId": "vol-1",
    }  # fmt: skip
    assert (await client.get("/job/unknown")).status_code == 404


async def test_nodes_in_mmbatchs_shape(client: httpx.AsyncClient) -> None:
    first, second = await got(client, "/node")
    assert (first["id"], second["id"]) == ("i-1", "i-2")
    assert first["instance"] == {
        "zone": "us-east-1a", "instanceId": "i-1", "instanceType": "x9.unknown", "region": "us-east-1",
        "createTime": "2026-03-01T12:00:00Z", "payType": "spot",
    }  # fmt: skip
    assert set(first) == {
        "id", "ips", "hostName", "cloud", "arch", "cores", "cpuModel", "cpuVendor", "memoryInMB", "instance",
        "lastHeartbeat",
    }  # fmt: skip


async def test_orphans(client: httpx.AsyncClient) -> None:
    answer = await got(client, "/volumes/orphans", limit=2)
    assert [each["resource_id"] for each in answer["items"]] == ["vol-lost-2", "vol-lost-1"] and answer["next"]
    first = answer["items"][0]
    assert (first["size_bytes"], first["deletes_at"], first["deleted_at"]) == (100 << 30, "2026-03-02T12:00:00Z", None)
    assert first["usd_per_month"] > 0 and "is over" in first["reason"]
    totals = answer["totals"]
    assert (totals["found"], totals["found_bytes"], totals["deleted"]) == (3, 300 << 30, 0)
    rest = await got(client, "/volumes/orphans", limit=2, cursor=answer["next"])
    assert [each["resource_id"] for each in rest["items"]] == ["vol-lost-0"] and rest["next"] is None
    assert (await got(client, "/volumes/orphans", deleted=True))["items"] == []


async def test_volumes_that_exist(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/volumes", params={"limit": 3})).json()
    assert [each["volume_id"] for each in answer["items"]] == ["vol-6", "vol-5", "vol-4"] and answer["next"]
    first = answer["items"][0]
    assert (first["kept"], first["zone"], first["size_gib"]) == (True, "us-east-1a", 10)
    assert first["usd_per_month"] > 0 and first["estimated"] and first["cost_usd"] > 0, "by the table that we ship"
    assert answer["totals"]["volumes"] == 7 and answer["totals"]["kept"] == 6
    running = (await client.get("/volumes", params={"kept": "false"})).json()["items"]
    assert [each["job_id"] for each in running] == ["job-0"]
