"""What an agent puts into a bundle, and what never gets into one; and that sending one stands in nobody's way."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from perdure.contracts import names
from perdure.contracts.logs import LARGEST_BUNDLE, LARGEST_KEPT, KeepLogs, KeptKind
from perdure.contracts.protection import AttachReply, ReportKind, RestoreRung, Verdict
from perdure.domain.checkpoints import CheckpointKind, ImageFile, Manifest, Surroundings
from perdure.domain.nodes import Notice, NoticeKind
from perdure.image.manifest import write_manifest
from perdure.log_files import MISSING, members
from perdure.settings import AgentSettings
from perdure.waiting import until_async
from tests.patience import PATIENCE
from tests.temporal_server import dev_server, working
from worker_agent.container.protected_jobs import ContainerRecord, ProtectedJob, ProtectedJobs
from worker_agent.node.metadata import Identity
from worker_agent.node.this_node import ThisNode
from worker_agent.tell.log_bundle import KEPT, LogBundles
from worker_agent.tell.log_keeping import LogKeeper

SECRET = "s3cr3t-of-the-job"
NOW = datetime(2026, 11, 22, tzinfo=UTC)
CONTAINER = "c0ffee0123456789"


class Home:
    """A node's folders with one container, as the runtime, the engine and the job leave them."""

    def __init__(self, folder: Path) -> None:
        self.node = ThisNode(
            AgentSettings(
                state_dir=folder / "state",
                run_dir=folder / "run",
                log_file=folder / "agent.log",
                criu=Path("/bin/true"),
                runc="/no/such/runc",
            )
        )
        self.node.identify(
            Identity(instanceId="i-1", availabilityZone="zone-a", region="zone", instanceType="m5.large")
        )
        self.jobs = ProtectedJobs(self.node)
        self.bundles = LogBundles(self.node, self.jobs)
        self.log = folder / "agent.log"
        self.log.write_text('{"event": "of all"}\n{"event": "started", "job_id": "job-1"}\n')

    def container(self, job_id: str = "job-1", container_id: str = CONTAINER) -> ProtectedJob:
        token = Surroundings(host_name="h", paths={"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": f"/v2/{SECRET}"})
        bundle = self.node.settings.run_dir / "bundle"
        job = self.jobs.add(
            ContainerRecord(
                container_id=container_id,
                job_id=job_id,
                attempt=1,
                bundle=bundle,
                runc_root="",
                rootfs=bundle / "rootfs",
                lower_layers=[],
                given=token,
                surroundings=token,
                plan=AttachReply(verdict=Verdict.FRESH, epoch=3, volume_id="vol-1"),
            )
        )
        job.container.work_dir.mkdir(parents=True)
        (job.container.work_dir / "dump.log").write_text("(00.1) dumped\n")
        (job.folder / "runtime.log").write_text("words of runc\n")
        (job.folder / "config.json.original").write_text(json.dumps({"process": {"env": [f"PASSWORD={SECRET}"]}}))
        root = job.job_root
        (root / "log").mkdir(parents=True)
        (root / "log/stdout").write_text("".join(f"line {number}\n" for number in range(250)))
        (root / "log/stderr").write_bytes(b"\xff no text\n")
        for folder in (root / "failures", self.node.settings.state_dir / "failures"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"20260101T000000-dump-{container_id[:12]}-aa.log").write_text("Error (criu/x.c:1): no\n")
        (root / "checkpoints/1/images").mkdir(parents=True)
        (root / "checkpoints/1/images/pages-1.img").write_text(SECRET)
        write_manifest(
            root / "checkpoints/1",
            Manifest(
                job_id=job_id,
                number=1,
                kind=CheckpointKind.PERIODIC,
                epoch=3,
                attempt=1,
                instance_id="i-1",
                frozen_at=NOW,
                committed_at=NOW,
                container_id=container_id,
                images=[ImageFile(path="images/pages-1.img", size=17, blake3="0" * 64)],
                surroundings=token,
            ),
        )
        return job


@pytest.fixture
async def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


async def test_a_bundle_of_a_job_has_its_logs_and_no_secret_of_it(home: Home) -> None:
    home.container()
    home.container("job-2", "deadbeef9999")
    await home.bundles.learn_versions()
    content = home.bundles.of_job("job-1", [])
    found = dict(members(content))
    at = f"containers/{CONTAINER[:12]}"
    assert set(found) == {
        "facts.json",
        f"{at}/container.json",
        f"{at}/dump.log",
        f"{at}/runtime.log",
        f"{at}/output.log",
        f"{at}/checkpoints.json",
        f"{at}/failures/20260101T000000-dump-{CONTAINER[:12]}-aa.log",
        f"failures/20260101T000000-dump-{CONTAINER[:12]}-aa.log",
        "agent.log",
        MISSING,
    }
    assert SECRET.encode() not in b"".join(found.values())
    output = found[f"{at}/output.log"]
    assert b"line 149\n" not in output
    assert b"line 150\n" in output
    assert b"line 249\n" in output
    assert b"\xff no text" in output
    assert found["agent.log"] == b'{"event": "started", "job_id": "job-1"}\n'
    facts = json.loads(found["facts.json"])
    assert facts["node"]["instance_id"] == "i-1"
    assert "does not say" in facts["programs"]["runc"]
    assert json.loads(found[f"{at}/checkpoints.json"])[0]["number"] == 1


async def test_a_bundle_of_a_node_has_all_of_them(home: Home) -> None:
    home.container()
    home.container("job-2", "deadbeef9999")
    found = dict(members(home.bundles.of_node()))
    assert {"containers/deadbeef9999/dump.log", f"containers/{CONTAINER[:12]}/dump.log"} <= set(found)
    assert sum(name.startswith("failures/") for name in found) == 2
    assert b"of all" in found["agent.log"]


async def test_logs_of_a_container_that_is_gone_are_found_by_its_id(home: Home) -> None:
    job = home.container()
    home.jobs.forget(job)
    found = dict(members(home.bundles.of_job("job-1", [CONTAINER])))
    assert f"failures/20260101T000000-dump-{CONTAINER[:12]}-aa.log" in found
    assert b"no container of the job is on this node now" in found[MISSING]


async def test_a_bundle_never_grows_beyond_what_a_message_may_have(home: Home) -> None:
    for number in range(4):
        job = home.container(f"job-{number}", f"{number:016x}")
        for name in ("dump.log", "restore.log"):
            (job.container.work_dir / name).write_bytes(os.urandom(700_000))
        (job.folder / "runtime.log").write_bytes(b"\n".join([os.urandom(40).hex().encode()] * 20_000))
    whole = home.bundles.of_node()
    assert 100_000 < len(whole) <= LARGEST_BUNDLE
    assert b"this bundle is full" in dict(members(whole))[MISSING]
    assert len(home.bundles.of_node(KEPT)) <= LARGEST_KEPT


async def test_without_the_volume_its_folder_is_not_touched(home: Home) -> None:
    job = home.container()
    shutil.rmtree(job.job_root)
    found = dict(members(home.bundles.of_container(job, with_volume=False)))
    assert {"container/dump.log", "container/runtime.log"} <= set(found)
    assert not job.job_root.exists()
    assert b"not mounted" in dict(members(home.bundles.of_container(job, with_volume=True)))[MISSING]


# ------------------------------------------------------------------------------------------- sent by itself


@workflow.defn(name=names.LOG_KEEPING)
class Kept:
    @workflow.run
    async def run(self, bundle: KeepLogs) -> KeepLogs:
        return bundle


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with (
        await dev_server() as environment,
        working(
            Worker(
                environment.client,
                task_queue=names.CONTROL_QUEUE,
                workflows=[Kept],
                workflow_runner=UnsandboxedWorkflowRunner(),
            )
        ),
    ):
        yield environment.client


async def kept(client: Client, key: str) -> KeepLogs:
    """The bundle that was sent under this key, however long that takes."""
    handle = client.get_workflow_handle(names.log_keeping_id(key), result_type=KeepLogs)
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return KeepLogs.model_validate(await handle.result())
            except RPCError:  # it has not come
                await asyncio.sleep(0.05)


async def test_what_ended_is_sent_once_under_a_key_of_its_own(home: Home, client: Client) -> None:
    job = home.container()
    keeper = LogKeeper(home.node, home.jobs, home.bundles, client)
    keeper.exited(job)
    keeper.exited(job)
    exit_logs = await kept(client, f"i-1/{CONTAINER}-3-exit")
    assert (exit_logs.job_id, exit_logs.epoch, exit_logs.kind) == ("job-1", 3, KeptKind.EXIT)
    assert b"line 249" in dict(members(exit_logs.content))["container/output.log"]

    keeper.reported(job, ReportKind.HANDED_OVER)
    handed = await kept(client, f"i-1/{CONTAINER}-3-hand-over")
    assert "container/output.log" not in dict(members(handed.content)), "its volume is on its way to the next node"

    keeper.reported(job, ReportKind.STARTED)
    job.note(rungs=[RestoreRung(number=1, reason="no such port")])
    keeper.reported(job, ReportKind.STARTED)
    assert (await kept(client, f"i-1/{CONTAINER}-3-failed-restore")).kind is KeptKind.FAILED_RESTORE

    keeper.noticed(Notice(notice_id="n", kind=NoticeKind.INTERRUPTION, instance_id="i-1", seen_at=NOW))
    noticed = await kept(client, f"i-1/notice-{int(NOW.timestamp())}")
    assert (noticed.job_id, noticed.epoch) == ("", 0)
    assert b"of all" in dict(members(noticed.content))["agent.log"]

    async def sent(least: int) -> int:
        count = len([found async for found in client.list_workflows("WorkflowType = 'LogKeeping'")])
        return count if count >= least else 0

    # The server lists a workflow a little after it has begun.
    assert await until_async(lambda: sent(least=4), PATIENCE) == 4


async def test_nobody_waits_while_temporal_is_away(home: Home) -> None:
    job = home.container()
    away = await Client.connect("127.0.0.1:9", lazy=True)
    keeper = LogKeeper(home.node, home.jobs, home.bundles, away)
    for _ in range(40):
        keeper.exited(job)
    sending = [task for task in asyncio.all_tasks() if "LogKeeper" in repr(task.get_coro())]
    assert 0 < len(sending) <= 16
    for task in sending:
        task.cancel()
    await asyncio.gather(*sending, return_exceptions=True)
