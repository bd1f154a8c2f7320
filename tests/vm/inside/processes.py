"""Processes in unusual states on a kernel that has cgroup version 2 alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.integration.engine_bed import Running, freezer_of
from tests.integration.engine_places import wait_for
from tests.vm.inside.bed import Scene

_PARENT = """
import os, signal, time
child = os.fork()
if child == 0:
    count = 0
    while True:
        count += 1
        with open('/data/count', 'w') as file:
            file.write(str(count))
        time.sleep(.01)
time.sleep(1)
os.kill(child, signal.SIGSTOP)
os.waitpid(child, os.WUNTRACED)
while True:
    print('tick', flush=True)
    time.sleep(.05)
"""


def stopped() -> list[str]:
    """A stopped child through two checkpoints, a death and a restore: its states, and how often it went on."""
    return asyncio.run(_stopped())


async def _stopped() -> list[str]:
    scene = Scene(["/usr/bin/python3", "-c", _PARENT])
    running = await scene.fresh()
    wait_for(lambda: running.lines() > 0, "a stopped child")
    count = scene.bed.volume.root / "seen/data/count"
    stood_at = count.read_text()
    states = [_state(running)]
    for _ in range(2):
        manifest = await scene.checkpoint(running)
        assert len(manifest.stopped) == 1
        running.more_lines(3)
        wait_for(lambda: _state(running) == "T", "state T")
        states.append(_state(running))
    scene.die(running)
    running = await scene.restored(manifest.number)
    running.more_lines(3)
    states.append(_state(running))
    assert count.read_text() == stood_at
    return states


def _state(running: Running) -> str:
    child = freezer_of(running).pids()[-1]
    return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
