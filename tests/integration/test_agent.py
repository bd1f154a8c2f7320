"""The agent as a process, with the real runtime, engine and Temporal; only the job's workflow is scripted."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from localcloud.aws.ebs import cut_power
from perdure.contracts.node import CheckpointOutcome, CheckpointSettings, FinalCheckpointRequest
from perdure.contracts.protection import ReportKind, Verdict
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.configuration import CheckpointConfiguration
from perdure.domain.nodes import Notice, NoticeKind
from perdure.domain.outages import CHECK_STEP
from perdure.domain.retries import HandOver, RetryStrategy
from perdure.image.checksums import digest_images
from perdure.image.manifest import read_manifest, write_manifest
from perdure.settings import AgentSettings
from tests.integration.agent_bed import Bed, Launched, Node, bed, frozen, tool, until, written_whole
from tests.patience import PATIENCE
from worker_agent.engine.checkpoint import BEFORE

pytestmark = pytest.mark.criu

COUNT = """
hurry() {{ [ -e "$PERDURE_VOLUME_PATH/hurry" ]; }}
i=0
while [ $i -lt {lines} ]; do
    echo "line $i"; echo "line $i" >> /log; echo "line $i" >> "$PERDURE_VOLUME_PATH/log"
    i=$((i+1)); hurry || sleep 0.05
done
until hurry; do sleep 0.05; done
echo done >&2
exit 7
"""
"""It does not end before it is told to hurry: whoever looks at it has all the time that it takes."""
BIG = """exec python3 -c "
import os, time
memory = os.urandom(1 << 20) * 600
for number in range({lines}):
    print('line', number, flush=True)
    time.sleep(0 if os.path.exists('/mnt/perdure/hurry') else .05)
"
"""
TRACED = """python3 -c "
import ctypes, os, time
PTRACE_TRACEME = 0
if os.fork() == 0:
    ctypes.CDLL(None).ptrace(PTRACE_TRACEME, 0, 0, 0)
    print('traced', flush=True)
while not os.path.exists('/mnt/perdure/hurry'):
    time.sleep(.05)
"
exit 5
"""


@pytest.fixture
async def home() -> AsyncIterator[Bed]:
    async with bed() as made:
        yield made


def lines(count: int) -> list[str]:
    return [f"line {number}" for number in range(count)]


async def ended(home: Bed, node: Node, launched: Launched) -> None:
    """The container engine deletes the container; the agent lets go of everything."""
    await node.delete(launched)
    await until(lambda: "state/jobs" not in node.mounted(), "all unmounted")
    assert not node.path(node.folder / "run/containers" / launched.id).exists()


def let_go(device: str) -> bool:
    """Is it mounted nowhere any more? A mount holds it exclusively."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
    except OSError:
        return False
    return True


async def test_a_container_from_its_start_to_its_end(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=60), home.plan())
    started = await home.report(ReportKind.STARTED)
    assert (started.epoch, started.restored_from, started.found) == (1, None, [])
    assert {"waited", "attached"} <= set(started.phases)
    await launched.more_lines(5)
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None, outcome.failure
    reported = await home.report(ReportKind.CHECKPOINT)
    assert reported.checkpoint == outcome.checkpoint
    assert reported.max_rootfs_bytes
    home.hurry(node)
    assert await launched.exit_code() == 7
    await home.report(ReportKind.EXITED)
    late = await home.checkpoint(node)
    assert late.ended and "there is nothing to save" in late.failure
    await ended(home, node, launched)
    assert not await home.reports(ReportKind.CHECKPOINT_FAILED)
    await written_whole(launched.bundle / "stdout", lines(60))
    await written_whole(launched.bundle / "stderr", ["done"])


async def test_asked_twice_for_the_same_checkpoint_there_is_one(home: Bed) -> None:
    node = await home.new_node()
    await home.launch(node, COUNT.format(lines=1000), home.plan())
    await home.report(ReportKind.STARTED)
    first, second = await asyncio.gather(home.checkpoint(node), home.checkpoint(node))
    assert first.checkpoint is not None
    assert first == second
    await home.report(ReportKind.CHECKPOINT)
    assert len(await home.reports(ReportKind.CHECKPOINT)) == 1


async def test_a_job_goes_on_where_it_was_on_another_node(home: Bed) -> None:
    node = await home.new_node()
    noticed = "trap 'echo noticed >&2' CONT;"
    launched = await home.launch(node, noticed + COUNT.format(lines=120), home.plan(diagnosis=True))
    await launched.more_lines(20)
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None, outcome.failure
    await launched.more_lines(10)
    tool("sync", "-f", home.job_root(node))  # the log of the dump, too
    cut_power([home.loop])
    home.lose(node, launched)
    await until(lambda: let_go(home.loop), "the dead node's mount is gone")
    node = await home.new_node()
    again = await home.launch(node, "exit 9", home.plan(Verdict.RESTORE, diagnosis=True), attempt=2)
    started = await home.report(ReportKind.STARTED, 2)
    remark = await home.report(ReportKind.REMARK)
    assert "was not unmounted by its last instance: its log was replayed" in remark.reason
    assert started.phases[CHECK_STEP] > 0 and CHECK_STEP not in (await home.report(ReportKind.STARTED)).phases
    assert (started.epoch, started.restored_from, started.rungs) == (2, outcome.checkpoint.number, [])
    assert [one.number for one in started.found] == [outcome.checkpoint.number]
    home.hurry(node)
    assert await again.exit_code() == 7
    root = home.job_root(node)
    for written in (root / "log/stdout", root / "layer/upper/log", root / "data/log"):
        await written_whole(written, lines(120))
    await written_whole(root / "log/stderr", ["done"])  # no SIGCONT reached it
    kept = sorted(path.name.split("-")[1] for path in (root / "failures").iterdir())
    assert kept == ["dump", "restore"], "in diagnosis mode the logs of what went well are kept too"
    await ended(home, node, again)


async def test_a_damaged_checkpoint_is_a_rung_and_the_one_before_it_is_restored(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=150), home.plan())
    numbers = []
    for _ in range(2):
        await launched.more_lines(10)
        outcome = await home.checkpoint(node)
        assert outcome.checkpoint is not None, outcome.failure
        numbers.append(outcome.checkpoint.number)
    image = max(
        (home.job_root(node) / f"checkpoints/{numbers[1]}/images").iterdir(), key=lambda one: one.stat().st_size
    )
    with open(image, "r+b") as file:
        file.seek(image.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
        os.fsync(file.fileno())
    home.lose(node, launched)
    node = await home.new_node()
    again = await home.launch(node, "exit 9", home.plan(Verdict.RESTORE), attempt=2)
    started = await home.report(ReportKind.STARTED, 2)
    assert started.restored_from == numbers[0]
    (rung,) = started.rungs
    assert (rung.number, rung.node_fault, rung.image_fault) == (numbers[1], False, True)
    assert "wrong checksum at byte" in rung.reason, "found while CRIU read the same pages"
    home.hurry(node)
    assert await again.exit_code() == 7
    await written_whole(home.job_root(node) / "log/stdout", lines(150))


async def test_a_cause_in_the_image_is_told_and_the_checkpoint_before_is_restored_at_once(home: Bed) -> None:
    """The image is whole by its checksums, and CRIU cannot restore it; CRIU's last words then speak of a cgroup."""
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=150), home.plan())
    numbers = []
    for _ in range(2):
        await launched.more_lines(10)
        outcome = await home.checkpoint(node)
        assert outcome.checkpoint is not None, outcome.failure
        numbers.append(outcome.checkpoint.number)
    newest = home.job_root(node) / f"checkpoints/{numbers[1]}"
    image = bytearray((newest / "images/mm-1.img").read_bytes())
    image[8:] = bytes(len(image) - 8)
    (newest / "images/mm-1.img").write_bytes(image)
    sealed = read_manifest(newest).model_copy(update={"images": digest_images(newest)})
    write_manifest(newest, sealed)
    home.lose(node, launched)
    node = await home.new_node()
    plan = home.plan(Verdict.RESTORE, retry=RetryStrategy(attempts=5), attempts_made=2)
    again = await home.launch(node, "exit 9", plan, attempt=2)
    started = await home.report(ReportKind.STARTED, 2)
    assert started.restored_from == numbers[0]
    (rung,) = started.rungs
    assert (rung.number, rung.node_fault, rung.image_fault) == (numbers[1], False, True)
    assert rung.reason.startswith("the checkpoint's memory image is damaged (CRIU: ")
    assert "mm-1.img" in rung.reason and "cgroupd" not in rung.reason and "/failures/" not in rung.reason
    home.hurry(node)
    assert await again.exit_code() == 7
    await written_whole(home.job_root(node) / "log/stdout", lines(150))


async def test_a_node_without_criu_blames_itself_and_keeps_the_checkpoints(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=200), home.plan())
    await launched.more_lines(5)
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None, outcome.failure
    home.lose(node, launched)
    node = await home.new_node(PERDURE_CRIU="/nowhere/criu")
    again = await home.launch(node, "echo anew", home.plan(Verdict.RESTORE), attempt=2)
    assert await again.exit_code() == 0
    assert again.lines() == ["anew"], "no rule retries a failed start, so it starts clean, unprotected"
    remark = await home.report(ReportKind.REMARK)
    assert (remark.level, remark.epoch) == ("error", 2)
    await ended(home, node, again)
    node.close()
    home.nodes.remove(node)
    node = await home.new_node()
    retry = RetryStrategy(attempts=5)
    await home.launch(node, "exit 9", home.plan(Verdict.RESTORE, retry=retry, attempts_made=3), attempt=3)
    assert (await home.report(ReportKind.STARTED, 2)).restored_from == outcome.checkpoint.number


async def test_where_the_rules_retry_a_failed_start_another_node_is_tried(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=200), home.plan())
    await launched.more_lines(5)
    assert (await home.checkpoint(node)).checkpoint is not None
    home.lose(node, launched)
    node = await home.new_node(PERDURE_CRIU="/nowhere/criu")
    plan = home.plan(Verdict.RESTORE, retry=RetryStrategy(attempts=5), attempts_made=2)
    await home.workflow.signal("set_plan", plan)
    refused = home.container(node, "exit 9", attempt=2)
    assert not await node.create(refused)
    assert "the next attempt tries again" in refused.said
    await until(lambda: "state/jobs" not in node.mounted(), "all unmounted")


async def test_a_volume_without_a_sound_file_system_is_never_formatted_for_a_restore(home: Bed) -> None:
    """Fault: where blkid saw nothing, mkfs ran although the plan was to restore what lay there."""
    node = await home.new_node()
    refused = await home.launch(node, "echo hello", home.plan(Verdict.RESTORE), attempt=2)
    assert await refused.exit_code() == 0
    assert "shows no file system" in (await home.report(ReportKind.REMARK)).reason
    assert subprocess.run(["blkid", "-p", home.loop], capture_output=True).returncode == 2, "it was formatted"
    tool("mkfs.xfs", "-q", home.loop)
    with open(home.loop, "r+b") as disk:
        disk.seek(64 << 10)  # the inode of the root folder
        disk.write(b"\xa5" * 4096)
    plan = home.plan(Verdict.RESTORE, retry=RetryStrategy(attempts=5), attempts_made=3)
    unprotected = await home.launch(node, "echo hello", plan, attempt=3)
    assert await unprotected.exit_code() == 0, "the next attempt would find the same: none is lost for it"
    remark = await home.report(ReportKind.REMARK, 2)
    assert "is damaged: " in remark.reason and "run `xfs_repair` on it" in remark.reason and remark.unprotected


async def test_with_nothing_to_restore_it_starts_clean(home: Bed) -> None:
    tool("mkfs.xfs", "-q", home.loop)
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=10), home.plan(Verdict.RESTORE), attempt=2)
    started = await home.report(ReportKind.STARTED)
    assert (started.restored_from, started.rungs) == (None, [])
    home.hurry(node)
    assert await launched.exit_code() == 7
    await written_whole(launched.bundle / "stdout", lines(10))


async def test_an_agent_killed_in_the_middle_of_a_dump(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, BIG.format(lines=4000), home.plan())
    await launched.more_lines(5)
    checkpoints = home.job_root(node) / "checkpoints"

    def whole() -> set[Path]:
        return {manifest.parent for manifest in checkpoints.glob("*/manifest.json")}

    def kill_in_dump(asking: asyncio.Task[CheckpointOutcome]) -> bool:
        """In a thread of its own, looking all the time: a dump to a fast disk is over in a moment."""
        while not asking.done():
            begun = {images.parent.parent for images in checkpoints.glob("*/images/*")} - whole()
            if begun and frozen(f"{home.cgroup}/{launched.id}"):
                node.kill_agent()
                return True
        return False

    while True:
        asking = asyncio.create_task(home.checkpoint(node))
        if await asyncio.to_thread(kill_in_dump, asking):
            break
        missed = await asking  # it came between two looks
        assert missed.checkpoint is not None, missed.failure
    asking.cancel()
    await node.start_agent()
    remark = await home.report(ReportKind.REMARK)
    assert remark.epoch == 1
    await launched.more_lines(5)
    assert set(checkpoints.glob("[0-9]*")) == whole(), "the torn checkpoint is gone"
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None, outcome.failure
    home.hurry(node)
    assert await launched.exit_code() == 0
    await home.report(ReportKind.EXITED)
    await written_whole(launched.bundle / "stdout", lines(4000))
    await ended(home, node, launched)


async def test_a_job_that_ends_while_there_is_no_agent(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=20), home.plan())
    await home.report(ReportKind.STARTED)
    node.kill_agent()
    home.hurry(node)
    assert await launched.exit_code() == 7
    await node.delete(launched)
    await node.start_agent()
    await home.report(ReportKind.EXITED)
    await until(lambda: "state/jobs" not in node.mounted(), "all unmounted")
    await written_whole(launched.bundle / "stdout", lines(20))


def notify(node: Node, seconds: float = PATIENCE) -> None:
    """AWS says two minutes; a busy machine needs more."""
    when = datetime.now(UTC) + timedelta(seconds=seconds)
    node.imds.give_notice(when)


def containers(node: Node) -> str:
    """What the agent keeps of its containers."""
    return "".join(path.read_text() for path in node.path(node.folder / "run/containers").glob("*/container.json"))


def begun_at(checkpoint: Checkpoint) -> datetime:
    """The freeze comes later, by what was done while the job ran."""
    return checkpoint.frozen_at - timedelta(seconds=sum(checkpoint.phases.get(name, 0.0) for name, _ in BEFORE))


async def test_the_agent_keeps_the_rhythm_and_follows_new_settings(home: Bed) -> None:
    node = await home.new_node()
    await home.launch(node, COUNT.format(lines=1000), home.plan(interval=2.0))
    taken = [await home.report(ReportKind.CHECKPOINT, count) for count in (1, 2, 3)]
    assert [one.checkpoint and one.checkpoint.kind for one in taken] == [CheckpointKind.PERIODIC] * 3
    begun = [begun_at(one.checkpoint) for one in taken if one.checkpoint is not None]
    gaps = [(b - a).total_seconds() for a, b in itertools.pairwise(begun)]
    assert all(gap > 1.2 for gap in gaps), f"sooner than the interval, by more than a busy machine explains: {gaps}"
    off = CheckpointConfiguration(interval_seconds=0.0, keep=3, reserve_mib=16)
    await home.tell(node, CheckpointSettings(job_id=home.job_id, epoch=home.epoch, number=1, checkpoint=off))
    await until(lambda: 'settings_number":1' in containers(node), "the settings on disk")

    async def quiet() -> bool:
        count = len(await home.reports(ReportKind.CHECKPOINT))
        await asyncio.sleep(3)
        return len(await home.reports(ReportKind.CHECKPOINT)) == count

    await until(quiet, "no more checkpoints, once the last one's report is delivered")


async def test_on_a_rebalance_recommendation_the_agent_takes_a_checkpoint_at_once(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=1000), home.plan())
    await launched.more_lines(5)
    # By an event, which the node's workflow hands on, and then by the metadata service: one recommendation.
    now = datetime.now(UTC)
    await home.announce(
        node, Notice(notice_id="event", kind=NoticeKind.REBALANCE, instance_id=node.instance_id, seen_at=now)
    )
    node.imds.recommend_rebalance(now)
    taken = await home.report(ReportKind.CHECKPOINT)
    assert taken.checkpoint is not None and taken.checkpoint.kind is CheckpointKind.PERIODIC
    await launched.more_lines(5)
    assert await home.reports(ReportKind.HANDED_OVER) == []
    assert [one.notice_id for one in await home.workflow.query("heard_notices", result_type=list[Notice])] == ["event"]


async def test_on_a_notice_the_job_is_saved_and_its_container_ended(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=1000), home.plan(hand_over=HandOver.END_CONTAINER))
    await launched.more_lines(10)
    notify(node)
    handed = await home.report(ReportKind.HANDED_OVER)
    assert handed.hand_over is HandOver.END_CONTAINER
    assert handed.checkpoint is not None
    assert {"ended", "unmounted"} <= set(handed.phases)
    assert "state/jobs" not in node.mounted()
    assert await launched.exit_code() == -9
    assert await home.workflow.query("heard_notices")
    await node.delete(launched)
    assert await home.reports(ReportKind.EXITED) == [], "we ended it: its exit is not the job's"
    home.lose(node, launched)
    node = await home.new_node()
    await home.launch(node, "exit 9", home.plan(Verdict.RESTORE), attempt=2)
    started = await home.report(ReportKind.STARTED, 2)
    assert started.restored_from == handed.checkpoint.number


SLOW_CRIU = """#!/bin/sh
case "$*" in *swrk*) [ -e {here}/hold ] && touch {here}/held; while [ -e {here}/hold ]; do sleep .02; done ;; esac
exec {criu} "$@"
"""


async def test_a_notice_in_the_middle_of_a_dump_makes_it_the_final_one(home: Bed, tmp_path: Path) -> None:
    """Fault: the notice waited for the periodic dump and its checksums, and then dumped again."""
    (tmp_path / "criu").write_text(SLOW_CRIU.format(here=tmp_path, criu=AgentSettings().criu))
    (tmp_path / "criu").chmod(0o755)
    node = await home.new_node(PERDURE_CRIU=str(tmp_path / "criu"))
    launched = await home.launch(node, COUNT.format(lines=1000), home.plan(hand_over=HandOver.END_CONTAINER))
    await home.report(ReportKind.STARTED)
    await launched.more_lines(10)
    (tmp_path / "hold").touch()
    asking = asyncio.create_task(home.checkpoint(node))
    await until((tmp_path / "held").exists, "a dump")
    assert frozen(f"{home.cgroup}/{launched.id}")
    notify(node)
    await until(lambda: "interruption notice" in node.agent_log(), "the notice")
    (tmp_path / "hold").unlink()
    handed = await home.report(ReportKind.HANDED_OVER)
    assert handed.checkpoint is not None
    assert (handed.checkpoint.number, handed.checkpoint.kind) == (1, CheckpointKind.FINAL)
    assert (await asking).checkpoint == handed.checkpoint
    assert len(await home.reports(ReportKind.CHECKPOINT)) == 1
    assert await launched.exit_code() == -9


async def test_without_temporal_the_job_is_saved_and_stays_frozen_until_it_is_back(home: Bed) -> None:
    node = await home.new_node()
    plan = home.plan(interval=1.0, hand_over=HandOver.END_CONTAINER)
    launched = await home.launch(node, COUNT.format(lines=1000), plan)
    await home.report(ReportKind.STARTED)
    home.temporal.kill()
    spool = node.path(node.folder / "state/spool")

    def spooled() -> int:
        return sum('"checkpoint"' in path.read_text() for path in spool.glob("*.json"))

    before = spooled()
    await until(lambda: spooled() >= before + 2, "the rhythm goes on without Temporal")
    notify(node)
    await until(lambda: any("handed over" in path.read_text() for path in spool.glob("*.json")), "a spooled hand-over")
    assert frozen(f"{home.cgroup}/{launched.id}")
    written = (home.job_root(node) / "log/stdout").read_text().splitlines()
    await home.temporal.start()
    handed = await home.report(ReportKind.HANDED_OVER)
    assert handed.hand_over is HandOver.STAY_FROZEN
    kinds = [report.kind for report in await home.reports()]
    assert kinds[0] is ReportKind.STARTED and kinds[-1] is ReportKind.HANDED_OVER
    assert ReportKind.CHECKPOINT in kinds[:-1]
    await written_whole(launched.bundle / "stdout", written)
    # In contact again, and inside the notice: nobody need ask for it.
    assert (await home.report(ReportKind.HANDED_OVER, 2)).hand_over is HandOver.END_CONTAINER
    assert await launched.exit_code() == -9


async def test_with_no_attempt_left_the_job_is_saved_and_uses_its_last_seconds(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=60), home.plan(hand_over=HandOver.KEEP_ONLY))
    await launched.more_lines(5)
    notify(node)
    handed = await home.report(ReportKind.HANDED_OVER)
    assert handed.hand_over is HandOver.KEEP_ONLY
    home.hurry(node)
    assert await launched.exit_code() == 7
    await ended(home, node, launched)
    await written_whole(launched.bundle / "stdout", lines(60))


async def test_the_workflow_may_ask_for_another_way_while_the_job_stays_frozen(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=1000), home.plan(hand_over=HandOver.STAY_FROZEN))
    await launched.more_lines(5)
    notify(node)
    assert (await home.report(ReportKind.HANDED_OVER)).hand_over is HandOver.STAY_FROZEN
    notice = Notice(
        notice_id="n", kind=NoticeKind.INTERRUPTION, instance_id=node.instance_id, seen_at=datetime.now(UTC)
    )
    final = FinalCheckpointRequest(
        job_id=home.job_id, epoch=home.epoch, notice=notice, hand_over=HandOver.END_CONTAINER
    )
    outcome = await home.ask(node, None, final)
    assert outcome.handed_over is HandOver.END_CONTAINER
    assert outcome.checkpoint is not None
    assert await launched.exit_code() == -9


async def test_an_instance_that_does_not_go_lets_its_frozen_job_run_again(home: Bed) -> None:
    """Whatever became of the agent meanwhile: a job that stands frozen for ever is worse than no protection."""
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=1000), home.plan(hand_over=HandOver.STAY_FROZEN))
    await launched.more_lines(5)
    notify(node)
    await home.report(ReportKind.HANDED_OVER)
    assert frozen(f"{home.cgroup}/{launched.id}")
    node.kill_agent()
    node.imds.give_notice(datetime.now(UTC) - timedelta(hours=1))
    await node.start_agent()
    await launched.more_lines(5)
    assert "still lives" in (await home.report(ReportKind.REMARK)).reason
    assert (await home.checkpoint(node)).checkpoint is None, "its instance is to go: there is no other one"


def _ecs(node: Node) -> dict[str, str]:
    """Commands that leave a trace, in place of `systemctl stop ecs` and `start`."""
    return {
        "PERDURE_ECS_STOP": f"touch {node.folder}/ecs-stopped",
        "PERDURE_ECS_START": f"rm {node.folder}/ecs-stopped",
    }


async def test_where_batch_must_see_the_hosts_end_the_ecs_agent_is_stopped_before_the_container_ends(
    home: Bed,
) -> None:
    node = await home.new_node()
    stopped = node.path(node.folder / "ecs-stopped")
    node.kill_agent()
    await node.start_agent(**_ecs(node))
    launched = await home.launch(node, COUNT.format(lines=1000), home.plan(hand_over=HandOver.STOP_ECS))
    await launched.more_lines(5)
    notify(node)
    handed = await home.report(ReportKind.HANDED_OVER)
    assert handed.hand_over is HandOver.STOP_ECS and not handed.reason
    assert set(handed.phases) == {"ended", "unmounted"}
    assert stopped.exists() and node.path(node.folder / "state/ecs-stopped").exists()
    assert await launched.exit_code() == -9


async def test_a_job_beside_it_that_nobody_protects_keeps_the_ecs_agent_running(home: Bed) -> None:
    node = await home.new_node()
    node.kill_agent()
    beside = await home.launch(node, "sleep 1000", None, AWS_BATCH_JOB_ID="another")
    await node.start_agent(**_ecs(node))
    launched = await home.launch(node, COUNT.format(lines=1000), home.plan(hand_over=HandOver.STOP_ECS))
    await launched.more_lines(5)
    notify(node)
    handed = await home.report(ReportKind.HANDED_OVER)
    assert handed.hand_over is HandOver.STAY_FROZEN and "1 jobs without protection" in handed.reason
    assert not node.path(node.folder / "ecs-stopped").exists() and frozen(f"{home.cgroup}/{launched.id}")
    assert beside.lines() == []


async def test_a_container_with_a_mount_that_nobody_declared_runs_unprotected(home: Bed) -> None:
    node = await home.new_node()
    await home.workflow.signal("set_plan", home.plan())
    launched = home.container(node, "echo hello")
    path = launched.bundle / "config.json"
    config = json.loads(path.read_text())
    config["mounts"].append({"destination": "/mnt", "type": "bind", "source": "/var/tmp", "options": ["rbind", "rw"]})
    path.write_text(json.dumps(config))
    assert await node.create(launched)
    await node.start(launched)
    assert await launched.exit_code() == 0
    remark = await home.report(ReportKind.REMARK)
    assert "/mnt" in remark.reason
    assert json.loads(path.read_text()) == config
    await ended(home, node, launched)


async def test_without_agent_a_first_attempt_runs_and_people_hear_of_it(home: Bed) -> None:
    node = await home.new_node()
    node.kill_agent()
    launched = await home.launch(node, "echo hello", None)
    assert await launched.exit_code() == 0
    assert launched.lines() == ["hello"]
    await node.start_agent()
    remark = await home.report(ReportKind.REMARK)
    assert remark.epoch == 0
    assert "unprotected" in remark.reason


async def test_without_a_plan_a_first_attempt_waits_only_as_long_as_the_start_time_out_allows(home: Bed) -> None:
    node = await home.new_node(start_timeout=28.0)
    begun = time.monotonic()
    launched = await home.launch(node, "echo hello", None)  # the scripted workflow says WAIT for ever
    assert time.monotonic() - begun >= 2.5
    assert await launched.exit_code() == 0
    assert "runs unprotected" in (await home.report(ReportKind.REMARK)).reason


async def test_a_volume_that_never_comes_does_not_stop_a_first_attempt(home: Bed) -> None:
    node = await home.new_node()
    plan = home.plan(volume_id="vol-../../etc")
    launched = await home.launch(node, "echo hello", plan)
    assert await launched.exit_code() == 0
    remark = await home.report(ReportKind.REMARK)
    assert "is not the id of an EBS volume" in remark.reason


async def test_a_job_that_cannot_be_frozen_runs_on_and_people_hear_why(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, TRACED, home.plan())
    await launched.first_line()
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is None
    failed = await home.report(ReportKind.CHECKPOINT_FAILED)
    assert "traced" in failed.reason
    home.hurry(node)
    assert await launched.exit_code() == 5
