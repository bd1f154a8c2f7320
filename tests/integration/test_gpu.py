"""Jobs on GPUs, with stand-ins for nvidia-smi and cuda-checkpoint.

No GPU was at hand: this proves order, arguments, limits and refusals, and nothing about GPUs.
"""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from perdure.domain.checkpoints import CheckpointKind, Manifest
from perdure.domain.errors import CheckpointFailed, NotCheckpointable, RestoreFailed
from tests.integration.engine_bed import TOOLS, Bed, Running, freezer_of
from tests.integration.test_engine import JOB_ID, RESERVE, identity
from tests.patience import PATIENCE
from worker_agent.engine import (
    GpuTools,
    committed,
    continue_restored,
    ensure_layout,
    finish_restore,
    prepare_fresh,
    prepare_restore,
    return_gpus,
    take_checkpoint,
)

pytestmark = [pytest.mark.criu]

JOB = """
import os, time
os.mknod("/dev/nvidia0", 0o20666, os.makedev(1, 3))
card = open("/dev/nvidia0")
for number in range(100000):
    print(number, flush=True)
    time.sleep(0.02)
"""
T4 = "GPU-aaaa, Tesla T4, 570.86.10, 100, 15360, [N/A]"
OTHER_T4 = "GPU-bbbb, Tesla T4, 570.86.10, 0, 15360, [N/A]"

SMI = """#!/bin/sh
echo "nvidia-smi $*" >>{folder}/calls
case $1 in
    --query-gpu=*) cat {folder}/cards ;;
    *) sed 's/$/, GPU-aaaa/' {folder}/pids ;;
esac
"""
CUDA = """#!/bin/sh
echo "cuda-checkpoint $*" >>{folder}/calls
[ "$1" = --get-state ] && {{ cat {folder}/state-$3; exit 0; }}
echo "$(awk '/^State/ {{ print $2 }}' /proc/$4/status) $2" >>{folder}/task-states
[ "$2" = "$(cat {folder}/fails 2>/dev/null)" ] && {{ echo "no luck" >&2; exit 1; }}
case $2 in
    lock | restore) echo locked >{folder}/state-$4 ;;
    checkpoint) echo checkpointed >{folder}/state-$4 ;;
    unlock) echo running >{folder}/state-$4 ;;
esac
"""


@dataclass
class Programs:
    """The two stand-ins, their answers and what they were asked."""

    folder: Path

    def __post_init__(self) -> None:
        for name, text in (("nvidia-smi", SMI), ("cuda-checkpoint", CUDA)):
            file = self.folder / name
            file.write_text(text.format(folder=self.folder))
            file.chmod(file.stat().st_mode | stat.S_IXUSR)
        self.cards(T4)

    def tools(self, *, enabled: bool = True) -> GpuTools:
        return GpuTools(enabled, str(self.folder / "nvidia-smi"), str(self.folder / "cuda-checkpoint"))

    def cards(self, *lines: str) -> None:
        (self.folder / "cards").write_text("".join(f"{line}\n" for line in lines))

    def knows(self, pid: int) -> None:
        (self.folder / "pids").write_text(f"{pid}\n")
        (self.folder / f"state-{pid}").write_text("running\n")

    def actions(self) -> list[str]:
        """What cuda-checkpoint did since it was last asked, without the pid."""
        calls = (self.folder / "calls").read_text().splitlines()
        (self.folder / "calls").write_text("")
        words = [call.split() for call in calls if "--action" in call]
        return [" ".join([call[2], *call[5:]]) for call in words]

    def fail(self, action: str) -> None:
        (self.folder / "fails").write_text(action)


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    made = Bed.make(600)
    try:
        made.new_node()
        made.command = ["/usr/bin/python3", "-c", JOB]
        yield made
    finally:
        await made.close()


async def start(bed: Bed, programs: Programs, *, enabled: bool = True) -> Running:
    ensure_layout(bed.volume.root)
    container = replace(bed.container(), tools=replace(TOOLS, gpu=programs.tools(enabled=enabled)))
    await prepare_fresh(container, epoch=1)
    running = bed.start(bed.launch(container, ["create"]))
    running.more_lines(2)
    programs.knows(running.container.init_pid)
    return running


async def checkpoint(running: Running, kind: CheckpointKind = CheckpointKind.PERIODIC) -> Manifest:
    return await take_checkpoint(
        running.container, identity(1), kind=kind, limit_seconds=PATIENCE, keep=2, reserve_bytes=RESERVE
    )


@pytest.mark.row("CPU and GPU", "NVIDIA: order and arguments (stand-in programs, no GPU)")
async def test_device_memory_comes_home_before_the_freeze_and_goes_back_after_it(bed: Bed, programs: Programs) -> None:
    running = await start(bed, programs)
    manifest = await checkpoint(running)
    assert [(card.uuid, card.name, card.used_bytes) for card in manifest.gpus] == [("GPU-aaaa", "Tesla T4", 100 << 20)]
    assert programs.actions() == ["lock --timeout 30000", "checkpoint", "restore", "unlock"]
    steps = list(manifest.phases)
    assert steps.index("suspend GPU") < steps.index("pause") < steps.index("dump")
    states = (programs.folder / "task-states").read_text().split()[::2]
    assert set(states) <= {"S", "R"}, "it was asked while the job could answer, never frozen"
    running.more_lines(2)
    final = await checkpoint(running, CheckpointKind.FINAL)
    assert programs.actions() == ["lock --timeout 30000", "checkpoint"], "the final one leaves the GPU alone"
    bed.kill(running)
    bed.change_node()
    programs.cards("GPU-cccc, Tesla T4, 570.86.10, 15300, 15360, [N/A]", OTHER_T4)
    container = replace(bed.container(), tools=replace(TOOLS, gpu=programs.tools()))
    prepared = await prepare_restore(container, final.number, epoch=2, job_id=JOB_ID)
    again = bed.launch(container, ["restore", *prepared.argv])
    await finish_restore(again.container, prepared.manifest)
    assert programs.actions() == []
    await continue_restored(again.container, prepared.manifest)
    (programs.folder / f"state-{again.container.init_pid}").write_text("checkpointed\n")
    await return_gpus(again.container, prepared.manifest)
    assert programs.actions() == ["restore --device-map GPU-aaaa=GPU-bbbb", "unlock"]
    again.more_lines(2)


async def test_off_by_default_and_said_so(bed: Bed, programs: Programs) -> None:
    running = await start(bed, programs, enabled=False)
    with pytest.raises(NotCheckpointable, match=r"process \d+ \(python3?\) uses a GPU, and GPU support is off"):
        await checkpoint(running)
    running.more_lines(2)
    assert not (programs.folder / "calls").exists()


@pytest.mark.row("CPU and GPU", "NVIDIA: refusals (stand-in programs, no GPU)")
async def test_what_is_known_not_to_work_is_refused_by_name(bed: Bed, programs: Programs) -> None:
    running = await start(bed, programs)
    for cards, reason in (
        (T4.replace("570.86.10", "550.54"), r"driver of Tesla T4 is 550.54; 570 or later"),
        (T4.replace("[N/A]", "Enabled"), "split \\(MIG\\)"),
        (T4.replace("100,", "900000000,"), "MiB of GPU memory are in use and this node has"),
        (OTHER_T4, "nvidia-smi knows no compute process"),
        ("nonsense", "is not understood"),
    ):
        programs.cards(cards)
        with pytest.raises(NotCheckpointable, match=reason):
            await checkpoint(running)
        running.more_lines(1)
    assert programs.actions() == [] and committed(bed.volume.root) == []


async def test_a_job_whose_gpu_cannot_be_saved_keeps_it(bed: Bed, programs: Programs) -> None:
    running = await start(bed, programs)
    programs.fail("checkpoint")
    with pytest.raises(CheckpointFailed, match="no luck"):
        await checkpoint(running)
    assert programs.actions() == ["lock --timeout 30000", "checkpoint", "unlock"]
    running.more_lines(2)
    assert not freezer_of(running).frozen()


@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        ([], "needs a Tesla T4 with 100 MiB free; here: none"),
        (["GPU-dddd, NVIDIA A10G, 570.86.10, 0, 23028, [N/A]"], "here: NVIDIA A10G"),
        ([OTHER_T4.replace("0, 15360", "15300, 15360")], "60 MiB free"),
        ([OTHER_T4.replace("570.86.10", "565.1")], "driver is 565.1; the job was saved under 570.86.10"),
    ],
)
async def test_a_node_without_such_a_card_is_at_fault(
    bed: Bed, programs: Programs, cards: list[str], reason: str
) -> None:
    running = await start(bed, programs)
    manifest = await checkpoint(running, CheckpointKind.FINAL)
    bed.kill(running)
    programs.cards(*cards)
    container = replace(bed.container(), tools=replace(TOOLS, gpu=programs.tools()))
    with pytest.raises(RestoreFailed, match=reason) as refused:
        await prepare_restore(container, manifest.number, epoch=2, job_id=JOB_ID)
    assert refused.value.node_fault
