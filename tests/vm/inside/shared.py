"""Checkpoints that share pages with those before them."""

from __future__ import annotations

import asyncio

from perdure.domain.checkpoints import CheckpointKind
from tests.patience import PATIENCE
from tests.vm.inside.bed import Scene, pages, uninterrupted, written
from worker_agent.engine import dump, offered
from worker_agent.engine.lazy import daemon as lazy
from worker_agent.engine.lazy import images

MEBIBYTES = 8
ROUNDS = 40
TOUCHED = 10
"""Pages a round: scattered, and few enough that a MiB is not written whole."""


def series() -> dict[str, object]:
    """Three in a row and a full one; the first, the third and, lazily, a final one after it are restored."""
    return asyncio.run(_series())


async def _series() -> dict[str, object]:
    scene = Scene(pages(MEBIBYTES, ROUNDS, TOUCHED))
    scene.full_every, scene.kept, scene.predump = 3, 9, True
    dump._WORTH_A_PREDUMP = 0  # this job is small
    running = await scene.fresh()
    taken = []
    for number in range(1, 5):  # the fourth shares with none
        scene.go_on(running, number * 5)
        taken.append(await scene.checkpoint(running))
    kept = offered(scene.bed.volume.root)
    whole, same = uninterrupted(pages(MEBIBYTES, ROUNDS, TOUCHED)), []
    for number in (1, 3):
        scene.die(running)
        running = await scene.restored(number)
        if number == 1:
            scene.go_on(running, ROUNDS)
            assert running.exit_code(PATIENCE) == 0
            same.append(written(running) == whole)
    scene.go_on(running, 25)
    last = await scene.checkpoint(running, CheckpointKind.FINAL)
    scene.die(running)
    images.LEAST = 0
    running = await scene.restored(last.number, lazily=True)
    await lazy.whole(running.container, limit_seconds=PATIENCE, number=last.number)
    scene.go_on(running, ROUNDS)
    assert running.exit_code(PATIENCE) == 0
    same += [written(running) == whole, last.full == 4]
    return {
        "full": [manifest.full for manifest in taken],
        "written KiB": [(manifest.written_bytes or 0) >> 10 for manifest in taken],
        "kept": kept,
        "same": same,
    }
