"""Spool, attach and planning against a real Temporal dev server, with a scripted workflow at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import (
    Client,
    Interceptor,
    OutboundInterceptor,
    StartWorkflowUpdateWithStartInput,
    WorkflowHandle,
    WorkflowUpdateHandle,
)
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from perdure.contracts import names
from perdure.contracts.inventory import NodeChanged, NodeWatchInput
from perdure.contracts.protection import (
    AttachReply,
    AttachRequest,
    JobProtectionInput,
    NodeReport,
    ReportKind,
    Verdict,
)
from perdure.domain.nodes import Node, Notice, NoticeKind
from perdure.domain.retries import RetryRule, RetryStrategy
from perdure.settings import AgentSettings
from tests.patience import PATIENCE
from tests.temporal_server import dev_server, working
from worker_agent.container.bundle import Bundle, _Config
from worker_agent.node.metadata import Identity
from worker_agent.node.this_node import ThisNode
from worker_agent.start import attach
from worker_agent.start.attach import Attacher
from worker_agent.start.planning import START_MARGIN, Planner, Refusal, retries_failed_start
from worker_agent.tell import connection as connection_module
from worker_agent.tell import spool as spool_module
from worker_agent.tell.connection import Connection
from worker_agent.tell.spool import Entry, EntryKind, Spool

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@workflow.defn(name=names.JOB_PROTECTION)
class ScriptedJob:
    """Answers `attach` by what the job is called; ends when it hears a report of an exit."""

    def __init__(self) -> None:
        self.asked = 0
        self.heard: list[str] = []
        self.over = False

    @workflow.run
    async def run(self, start: JobProtectionInput) -> list[str]:
        await workflow.wait_condition(lambda: self.over)
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self.heard

    @workflow.update
    async def attach(self, request: AttachRequest) -> AttachReply:
        self.asked += 1
        if request.job_id.startswith("waits") and self.asked < 3:
            return AttachReply(verdict=Verdict.WAIT, reason="the volume is on its way")
        if request.job_id.startswith("for-ever"):
            await workflow.sleep(0.2)
            return AttachReply(
                verdict=Verdict.WAIT,
                retry=RetryStrategy(attempts=3),
                attempts_made=2,
                reason="the volume is on its way",
            )
        if request.job_id.startswith("of-next-year"):
            return {"verdict": "fresh", "epoch": "seven"}  # type: ignore[return-value]
        if request.job_id.startswith("takes-its-time"):
            await workflow.sleep(1)
        if request.job_id.startswith("refused"):
            return AttachReply(verdict=Verdict.REFUSED, reason="a newer container exists")
        return AttachReply(verdict=Verdict.FRESH, epoch=self.asked, volume_id="vol-1")

    @workflow.signal
    def report(self, report: NodeReport) -> None:
        self.heard.append(report.report_id)
        self.over = self.over or report.kind is ReportKind.EXITED

    @workflow.signal
    def notice(self, notice: Notice) -> None:
        self.heard.append(notice.notice_id)

    @workflow.query
    def times_asked(self) -> int:
        return self.asked

    @workflow.query
    def told(self) -> list[str]:
        return self.heard


@workflow.defn(name=names.NODE_WATCH)
class ScriptedNode:
    @workflow.run
    async def run(self, start: NodeWatchInput) -> str:
        await workflow.wait_condition(lambda: self.zone != "")
        return self.zone

    def __init__(self) -> None:
        self.zone = ""

    @workflow.signal
    def node_changed(self, change: NodeChanged) -> None:
        self.zone = change.node.zone


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with await dev_server() as environment, working(_worker(environment.client)):
        yield environment.client


def _worker(client: Client) -> Worker:
    return Worker(
        client,
        task_queue=names.CONTROL_QUEUE,
        workflows=[ScriptedJob, ScriptedNode],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


def request(job_id: str) -> AttachRequest:
    return AttachRequest(
        job_id=job_id, container_id=uuid.uuid4().hex, attempt=1, instance_id="i-1", zone="z", asked_at=NOW
    )


def report(job_id: str, key: str, kind: ReportKind = ReportKind.REMARK) -> Entry:
    told = NodeReport(report_id=key, job_id=job_id, epoch=1, kind=kind, at=NOW, instance_id="i-1")
    return Entry(kind=EntryKind.REPORT, job_id=job_id, report=told)


async def dead_client() -> Client:
    """Nobody listens at its address."""
    return await Client.connect("127.0.0.1:1", data_converter=pydantic_data_converter, lazy=True)


# ------------------------------------------------------------------------------------------------------------- attach


async def test_attach_asks_again_until_there_is_a_plan(client: Client) -> None:
    reply = await Attacher(Connection(client)).ask(request("waits-1"), "a job", first_answer=PATIENCE, limit=PATIENCE)
    assert reply is not None
    assert (reply.verdict, reply.epoch) == (Verdict.FRESH, 3)
    described = await client.get_workflow_handle(names.job_workflow_id("waits-1")).describe()
    assert await described.static_summary() == "a job"


async def test_attach_ends_with_the_last_wait_when_time_is_over(client: Client) -> None:
    reply = await Attacher(Connection(client)).ask(request("for-ever"), "a job", first_answer=PATIENCE, limit=1.5)
    assert reply is not None
    assert reply.verdict is Verdict.WAIT
    assert reply.reason in {"the volume is on its way", "the workflow works on it"}  # the latter on a slow machine


async def test_a_container_of_a_finished_workflow_runs_unprotected(client: Client) -> None:
    handle = await client.start_workflow(
        names.JOB_PROTECTION,
        JobProtectionInput(job_id="over"),
        id=names.job_workflow_id("over"),
        task_queue=names.CONTROL_QUEUE,
    )
    await handle.terminate()
    reply = await Attacher(Connection(client)).ask(request("over"), "a job", first_answer=PATIENCE, limit=PATIENCE)
    assert reply is not None
    assert reply.verdict is Verdict.UNPROTECTED


class Losing(Interceptor):
    """Loses the first questions of attach: the first before it has reached the server, the second's answer."""

    def __init__(self) -> None:
        self.lost: list[str] = []

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
        losing = self

        class Outbound(OutboundInterceptor):
            async def start_update_with_start_workflow(
                self, input: StartWorkflowUpdateWithStartInput
            ) -> WorkflowUpdateHandle[Any]:
                if len(losing.lost) < 2:
                    losing.lost.append(input.update_workflow_input.update_id or "")
                    if len(losing.lost) == 2:
                        await super().start_update_with_start_workflow(input)
                    await asyncio.Event().wait()
                return await super().start_update_with_start_workflow(input)

        return Outbound(next)


async def test_a_lost_question_is_asked_again_under_its_own_id_and_costs_no_event(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost before it arrived; then its answer was lost; then the answer takes longer than is waited for it."""
    monkeypatch.setattr(attach, "_PATIENCE", (0.1, 0.3, 0.3, 0.3, 1.0, 5.0, 30.0))
    losing = Losing()
    asking = Client(
        client.service_client,
        namespace=client.namespace,
        data_converter=client.data_converter,
        interceptors=[losing],
    )
    reply = await Attacher(Connection(asking)).ask(
        request("takes-its-time"), "a job", first_answer=PATIENCE, limit=PATIENCE
    )
    assert reply is not None
    assert (reply.verdict, reply.epoch) == (Verdict.FRESH, 1), "the workflow heard one question"
    assert losing.lost[0] == losing.lost[1] != ""
    handle = client.get_workflow_handle(names.job_workflow_id("takes-its-time"))
    kinds = Counter(EventType.Name(event.event_type) for event in (await handle.fetch_history()).events)
    assert kinds["EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED"] == 1
    assert kinds["EVENT_TYPE_WORKFLOW_TASK_COMPLETED"] <= 2, "the question's and the timer's"


async def test_a_container_that_is_given_up_asks_no_more(client: Client) -> None:
    asking = asyncio.create_task(
        Attacher(Connection(client)).ask(request("takes-its-time"), "a job", first_answer=PATIENCE, limit=PATIENCE)
    )
    handle = client.get_workflow_handle(names.job_workflow_id("takes-its-time"))
    async with asyncio.timeout(PATIENCE):
        while not await _was_asked(handle):
            await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def _was_asked(handle: WorkflowHandle[Any, Any]) -> bool:
    try:
        return bool(await handle.query("times_asked"))
    except RPCError:
        return False


class Gateway:
    """Stands between agents and Temporal, and may forget the connections that it has: it takes what they send, and
    nobody hears of it. New ones are as good as ever."""

    def __init__(self, temporal: str) -> None:
        self._host, _, self._port = temporal.rpartition(":")
        self._open: set[asyncio.Event] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> Gateway:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def connect(self) -> Client:
        """A client that waits for no server, and does not look after its connection by itself."""
        port = self._server.sockets[0].getsockname()[1]
        return await Client.connect(
            f"127.0.0.1:{port}", data_converter=pydantic_data_converter, lazy=True, keep_alive_config=None
        )

    def forget(self) -> None:
        for known in self._open:
            known.clear()
        self._open.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.create_task(self._connected(reader, writer)))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, on = await asyncio.open_connection(self._host, int(self._port))
        known = asyncio.Event()
        known.set()
        self._open.add(known)

        async def forward(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                if known.is_set():
                    target.write(data)

        try:
            await asyncio.gather(forward(reader, on), forward(there, writer), return_exceptions=True)
        finally:
            for end in (on, writer):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()


async def test_a_connection_that_is_dead_without_a_word_is_replaced(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "_PATIENCE", (0.5, 5.0, 30.0))
    monkeypatch.setattr(spool_module, "_CALL_SECONDS", 2.0)
    monkeypatch.setattr(connection_module, "_PROBE", 0.5)
    async with Gateway(client.service_client.config.target_host) as gateway:
        connection = Connection(await gateway.connect(), gateway.connect)
        asking = partial(Attacher(connection).ask, summary="a job", first_answer=PATIENCE, limit=PATIENCE)
        for _ in range(2):
            before = connection.client
            reply = await asking(request("a-job"))
            assert reply is not None and reply.verdict is Verdict.FRESH
            gateway.forget()
        assert connection.client is not before
        spool = Spool(tmp_path, connection)
        spool.load()
        await spool.add(report("a-job", "1"))
        async with asyncio.timeout(PATIENCE):
            await spool.delivered(names.job_workflow_id("a-job"))
    handle = client.get_workflow_handle(names.job_workflow_id("a-job"))
    assert "1" in await handle.query("told")


async def test_nobody_there_is_no_answer(client: Client) -> None:
    attacher = Attacher(Connection(await dead_client()))
    assert await attacher.ask(request("j"), "a job", first_answer=0.5, limit=60) is None


# ----------------------------------------------------------------------------------------------------------- planning


def bundle(job_id: str, attempt: int) -> Bundle:
    return Bundle(
        path=Path("/nowhere"),
        config=_Config(),
        job_id=job_id,
        attempt=attempt,
        queue="q",
        environment={},
        shared=(),
    )


def planner(
    client: Client, tmp_path: Path, limit: float = 3.0, attach_patience: float = 1.0
) -> tuple[Planner, ThisNode]:
    """A container is held for `limit` seconds, and a first attempt without an answer for `attach_patience`."""
    node = ThisNode(
        AgentSettings(
            run_dir=tmp_path,
            attach_patience=attach_patience,
            PERDURE_CONTAINER_START_TIMEOUT=START_MARGIN + limit,
        )
    )
    node.identify(Identity(instanceId="i-1", availabilityZone="z"))
    return Planner(node, Attacher(Connection(client))), node


async def test_a_first_attempt_runs_unprotected_when_nobody_answers(tmp_path: Path) -> None:
    planning, _ = planner(await dead_client(), tmp_path)
    plan = await planning.plan("c", bundle("j", 1))
    assert isinstance(plan, Refusal)
    assert not plan.fail


async def test_a_later_attempt_is_held_and_starts_clean_loudly_when_the_rules_are_unknown(tmp_path: Path) -> None:
    planning, _ = planner(await dead_client(), tmp_path)
    begun = asyncio.get_running_loop().time()
    plan = await planning.plan("c", bundle("j", 2))
    assert asyncio.get_running_loop().time() - begun >= 3.0, "held to 25 s before the start time-out, not to 1 s"
    assert isinstance(plan, Refusal)
    assert (plan.fail, plan.level) == (False, "error")


async def test_a_later_attempt_fails_its_start_when_the_rules_retry_that(client: Client, tmp_path: Path) -> None:
    for limit in (3.0, 30.0, PATIENCE):  # longer where the machine is too busy for an answer within three seconds
        planning, _ = planner(client, tmp_path, limit)
        plan = await planning.plan("c", bundle("for-ever-2", 2))
        if isinstance(plan, Refusal) and "the volume is on its way" in plan.reason:
            break
    assert isinstance(plan, Refusal)
    assert plan.fail


async def test_a_refused_container_does_not_start(client: Client, tmp_path: Path) -> None:
    planning, _ = planner(client, tmp_path, limit=PATIENCE, attach_patience=PATIENCE)
    plan = await planning.plan("c", bundle("refused", 1))
    assert isinstance(plan, Refusal)
    assert plan.fail


async def test_an_answer_of_another_version_is_no_reason_to_wait(client: Client, tmp_path: Path) -> None:
    planning, _ = planner(client, tmp_path, limit=PATIENCE, attach_patience=PATIENCE)
    first, later = [await planning.plan("c", bundle(f"of-next-year-{n}", n)) for n in (1, 2)]
    assert isinstance(first, Refusal) and isinstance(later, Refusal)
    assert "different versions" in first.reason and (first.fail, later.fail, later.level) == (False, False, "error")


async def test_on_a_noticed_node_a_container_is_held(client: Client, tmp_path: Path) -> None:
    planning, node = planner(client, tmp_path)
    node.interrupt(Notice(notice_id="n", kind=NoticeKind.INTERRUPTION, instance_id="i-1", seen_at=NOW))
    begun = asyncio.get_running_loop().time()
    plan = await planning.plan("c", bundle("held", 1))
    assert asyncio.get_running_loop().time() - begun >= 3.0
    assert isinstance(plan, Refusal)
    assert not plan.fail


@pytest.mark.parametrize(
    ("rules", "made", "expected"),
    [
        ([], 1, True),
        ([], 3, False),
        ([RetryRule(action="EXIT", on_reason="*")], 1, False),
        (
            [RetryRule(action="RETRY", on_status_reason="Host EC2*"), RetryRule(action="EXIT", on_exit_code="*")],
            1,
            False,
        ),
        ([RetryRule(action="RETRY", on_reason="Cannot*"), RetryRule(action="EXIT", on_reason="*")], 1, True),
    ],
)
def test_whether_a_failed_start_is_retried(rules: list[RetryRule], made: int, expected: bool) -> None:
    plan = AttachReply(verdict=Verdict.WAIT, retry=RetryStrategy(attempts=3, rules=rules), attempts_made=made)
    assert retries_failed_start(plan) is expected


# -------------------------------------------------------------------------------------------------------------- spool


async def test_reports_are_delivered_in_order_and_leave_the_disk(client: Client, tmp_path: Path) -> None:
    handle = await client.start_workflow(
        names.JOB_PROTECTION,
        JobProtectionInput(job_id="j"),
        id=names.job_workflow_id("j"),
        task_queue=names.CONTROL_QUEUE,
    )
    spool = Spool(tmp_path, Connection(client))
    spool.load()
    notice = Notice(notice_id="notice", kind=NoticeKind.REBALANCE, instance_id="i-1", seen_at=NOW)
    await spool.add(report("j", "1"))
    await spool.add(Entry(kind=EntryKind.NOTICE, job_id="j", notice=notice))
    for number in range(2, 8):
        await spool.add(report("j", str(number)))
    await spool.add(report("j", "exit", ReportKind.EXITED))
    async with asyncio.timeout(PATIENCE):
        assert await handle.result() == ["1", "notice", *"234567", "exit"]
        await spool.delivered(names.job_workflow_id("j"))
    assert list(tmp_path.iterdir()) == []
    assert spool.in_reach


async def test_what_was_not_delivered_is_sent_by_the_next_agent(client: Client, tmp_path: Path) -> None:
    offline = Spool(tmp_path, Connection(await dead_client()))
    offline.load()
    for number in range(5):
        await offline.add(report("j", str(number)))
    await offline.add(report("j", "exit", ReportKind.EXITED))
    assert not offline.in_reach
    await offline.stop()
    assert len(list(tmp_path.glob("*.json"))) == 6
    (tmp_path / "00000000000000000001.json").write_text("half a mess")
    (tmp_path / "1.new").write_text("never finished")
    handle = await client.start_workflow(
        names.JOB_PROTECTION,
        JobProtectionInput(job_id="j"),
        id=names.job_workflow_id("j"),
        task_queue=names.CONTROL_QUEUE,
    )
    spool = Spool(tmp_path, Connection(client))
    await asyncio.to_thread(spool.load)
    spool.start()
    async with asyncio.timeout(PATIENCE):
        assert await handle.result() == [*"01234", "exit"]
        await spool.delivered(names.job_workflow_id("j"))
    assert [path.name for path in tmp_path.iterdir()] == ["00000000000000000001.unreadable"]


async def test_what_is_told_keeps_its_order_when_the_clock_is_set_back(tmp_path: Path) -> None:
    await _told_in_vain(tmp_path, "1")
    for told in list(tmp_path.iterdir()):
        told.rename(tmp_path / f"{time.time_ns() + 10**12:020d}.json")  # a quarter of an hour ahead of what comes now
    await _told_in_vain(tmp_path, "2")
    kept = [json.loads(path.read_text()) for path in sorted(tmp_path.iterdir())]
    assert [one["report"]["report_id"] for one in kept] == ["1", "2"]


async def _told_in_vain(folder: Path, key: str) -> None:
    """By an agent without a server, which then ends."""
    spool = Spool(folder, Connection(await dead_client()))
    spool.load()
    await spool.add(report("j", key))
    await spool.stop()


async def test_a_report_to_a_workflow_that_is_over_is_let_go(client: Client, tmp_path: Path) -> None:
    spool = Spool(tmp_path, Connection(client))
    spool.load()
    await spool.add(report("never-was", "1"))
    async with asyncio.timeout(PATIENCE):
        await spool.delivered(names.job_workflow_id("never-was"))
    assert spool.pending() == 0
    assert list(tmp_path.iterdir()) == []


async def test_an_unprotected_job_becomes_known_by_its_report(client: Client, tmp_path: Path) -> None:
    spool = Spool(tmp_path, Connection(client))
    spool.load()
    entry = report("unknown-job", "why").model_copy(update={"kind": EntryKind.UNPROTECTED})
    await spool.add(entry)
    await spool.add(entry)
    handle = client.get_workflow_handle(names.job_workflow_id("unknown-job"))
    async with asyncio.timeout(PATIENCE):
        await spool.delivered(names.job_workflow_id("unknown-job"))
        assert await handle.query("told") == ["why", "why"]


async def test_the_inventory_hears_of_the_node(client: Client, tmp_path: Path) -> None:
    spool = Spool(tmp_path, Connection(client))
    spool.load()
    node = Node(instance_id="i-9", zone="us-east-1c")
    await spool.add(Entry(kind=EntryKind.NODE, node=NodeChanged(node=node, at=NOW)))
    async with asyncio.timeout(PATIENCE):
        await spool.delivered(names.node_workflow_id("i-9"))
        assert await client.get_workflow_handle(names.node_workflow_id("i-9")).result() == "us-east-1c"
