"""The metadata client and the interruption sources, against a real HTTP server that plays IMDSv2."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import gethostname

import pytest

from perdure.domain.errors import CloudUnavailable
from perdure.domain.nodes import Notice, NoticeKind
from perdure.settings import AgentSettings
from tests.patience import PATIENCE
from worker_agent.node.interruption import RebalanceRecommendation, SpotInterruption, watch
from worker_agent.node.metadata import Identity, Metadata
from worker_agent.node.this_node import ThisNode

ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
DOCUMENT = "/latest/dynamic/instance-identity/document"


class Imds:
    """What the server answers: `pages` by path; `token` is the only one it accepts."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.token = "first"
        self.life = "21600"
        self.tokens_given = 0
        self.broken = 0
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        imds = self.server.imds  # type: ignore[attr-defined]
        assert self.path == "/latest/api/token"
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
        imds.tokens_given += 1
        self._send(200, imds.token, {"X-aws-ec2-metadata-token-ttl-seconds": imds.life})

    def do_GET(self) -> None:
        imds = self.server.imds  # type: ignore[attr-defined]
        if imds.broken:
            self._send(imds.broken, "sorry")
        elif self.headers.get("X-aws-ec2-metadata-token") != imds.token:
            self._send(401, "")
        elif self.path in imds.pages:
            self._send(200, imds.pages[self.path])
        else:
            self._send(404, "")

    def _send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def imds() -> Iterator[Imds]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.imds = imds = Imds()  # type: ignore[attr-defined]
    imds.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield imds
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is a thread of this process: on a busy machine it is slower than the service."""
    monkeypatch.setattr("worker_agent.node.metadata._TIMEOUT", PATIENCE)


@pytest.fixture
async def metadata(imds: Imds) -> AsyncIterator[Metadata]:
    client = Metadata(imds.url)
    yield client
    await client.close()


async def test_it_says_which_instance_this_is(imds: Imds, metadata: Metadata) -> None:
    imds.pages[DOCUMENT] = json.dumps(
        {"instanceId": "i-1", "availabilityZone": "us-east-1b", "instanceType": "c5.large", "accountId": "1"}
    )
    identity = await metadata.identity()
    assert (identity.instanceId, identity.availabilityZone, identity.instanceType) == ("i-1", "us-east-1b", "c5.large")


async def test_a_token_is_used_again_until_it_is_refused(imds: Imds, metadata: Metadata) -> None:
    imds.pages["/x"] = "1"
    assert [await metadata.read("/x") for _ in range(3)] == ["1", "1", "1"]
    assert imds.tokens_given == 1
    imds.token = "second"
    assert await metadata.read("/x") == "1"
    assert imds.tokens_given == 2


async def test_a_token_is_renewed_before_its_end(imds: Imds, metadata: Metadata) -> None:
    imds.life = "2"
    imds.pages["/x"] = "1"
    await metadata.read("/x")
    await asyncio.sleep(1.1)
    await metadata.read("/x")
    assert imds.tokens_given == 2


async def test_nothing_announced_is_normal(metadata: Metadata) -> None:
    assert await SpotInterruption(metadata).look("i-1") is None
    assert await RebalanceRecommendation(metadata).look("i-1") is None


@pytest.mark.parametrize("status", [400, 403, 500, 503])
async def test_a_fault_of_the_service_is_no_announcement(imds: Imds, metadata: Metadata, status: int) -> None:
    imds.broken = status
    with pytest.raises(CloudUnavailable, match=str(status)):
        await SpotInterruption(metadata).look("i-1")


async def test_a_service_that_is_away_is_said(imds: Imds) -> None:
    client = Metadata("http://127.0.0.1:1")
    with pytest.raises(CloudUnavailable):
        await client.identity()
    await client.close()


@pytest.mark.parametrize("document", ["", "{}", "<html>", '{"instanceId": 5}'])
async def test_an_identity_that_is_none_is_said(imds: Imds, metadata: Metadata, document: str) -> None:
    imds.pages[DOCUMENT] = document
    with pytest.raises(CloudUnavailable):
        await metadata.identity()


@pytest.mark.parametrize("action", ["terminate", "stop", "hibernate"])
async def test_an_interruption_has_a_deadline(imds: Imds, metadata: Metadata, action: str) -> None:
    imds.pages[ACTION] = json.dumps({"action": action, "time": "2026-11-22T12:00:02Z"})
    notice = await SpotInterruption(metadata).look("i-1")
    assert notice is not None
    assert notice.kind is NoticeKind.INTERRUPTION
    assert notice.deadline == datetime(2026, 11, 22, 12, 0, 2, tzinfo=UTC)


async def test_an_announcement_that_cannot_be_read_is_still_one(imds: Imds, metadata: Metadata) -> None:
    imds.pages[ACTION] = "the end is near"
    notice = await SpotInterruption(metadata).look("i-1")
    assert notice is not None
    assert notice.deadline is None


async def test_the_same_announcement_has_the_same_id(imds: Imds, metadata: Metadata) -> None:
    imds.pages[ACTION] = json.dumps({"action": "terminate", "time": "2026-11-22T12:00:02Z"})
    imds.pages[REBALANCE] = json.dumps({"noticeTime": "2026-11-22T12:00:02Z"})
    source = SpotInterruption(metadata)
    first, again, other = await source.look("i-1"), await source.look("i-1"), await source.look("i-2")
    hint = await RebalanceRecommendation(metadata).look("i-1")
    assert first is not None and again is not None and other is not None and hint is not None
    assert first.notice_id == again.notice_id
    assert len({first.notice_id, other.notice_id, hint.notice_id}) == 3
    assert hint.kind is NoticeKind.REBALANCE and hint.deadline is None


async def test_the_watcher_tells_each_notice_once_and_survives_faults(imds: Imds, metadata: Metadata) -> None:
    heard: asyncio.Queue[Notice] = asyncio.Queue()
    imds.broken = 500
    watching = asyncio.create_task(
        watch([SpotInterruption(metadata), RebalanceRecommendation(metadata)], "i-1", 0.01, heard.put_nowait)
    )
    async with asyncio.timeout(PATIENCE):
        await asyncio.sleep(0.05)
        imds.pages[REBALANCE] = json.dumps({"noticeTime": "2026-11-22T12:00:00Z"})
        imds.broken = 0
        assert (await heard.get()).kind is NoticeKind.REBALANCE
        imds.pages[ACTION] = json.dumps({"action": "terminate", "time": "2026-11-22T12:02:00Z"})
        assert (await heard.get()).kind is NoticeKind.INTERRUPTION
        imds.pages[ACTION] = json.dumps({"action": "terminate", "time": "2026-11-22T12:05:00Z"})
        later = await heard.get()
        assert later.deadline == datetime(2026, 11, 22, 12, 5, tzinfo=UTC)
    watching.cancel()
    assert heard.empty()


async def test_a_node_says_what_it_is(tmp_path: Path) -> None:
    node = ThisNode(AgentSettings(run_dir=tmp_path / "run", state_dir=tmp_path / "state"))
    identity = {"instanceId": "i-1", "availabilityZone": "us-east-1a", "region": "us-east-1"}
    node.identify(Identity.model_validate({**identity, "privateIp": "10.0.0.4", "architecture": "arm64"}))
    told = node.describe()
    assert (told.region, told.ips, told.arch, told.host_name) == ("us-east-1", ["10.0.0.4"], "arm64", gethostname())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    assert told.vcpus == os.cpu_count() and told.memory_mib == pytest.approx(memory, abs=1)
    again = ThisNode(node.settings)
    again.remember()
    assert again.describe().ips == ["10.0.0.4"], "the next agent of this boot knows it too"
