"""One checkpoint or the preparation of one restore in a process of its own, in which somebody is killed at one step:
this process, as an agent is killed, or a program that it runs then. The order comes pickled on stdin."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from perdure.domain.checkpoints import CheckpointKind
from tests.patience import PATIENCE
from worker_agent import proc
from worker_agent.engine import Container, Identity, prepare_restore, take_checkpoint

AGENT = "agent"


@dataclass(frozen=True)
class Order:
    """`restore`: the number of the checkpoint to prepare the restore of; None: take one. `victim`: the agent, at the
    beginning of the step, or the name of a program, as soon as it runs within the step."""

    container: Container
    identity: Identity
    step: str
    victim: str = AGENT
    kind: CheckpointKind = CheckpointKind.PERIODIC
    restore: int | None = None


class Killer:
    """Told of each step as it begins."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.over = threading.Event()
        self.killed = False

    def __call__(self, step: str) -> None:
        if step != self.order.step:
            self.over.set()
            return
        self.over.clear()
        if self.order.victim == AGENT:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            threading.Thread(target=self.watch, daemon=True).start()

    def watch(self) -> None:
        while not self.over.is_set() and not self.killed:
            for pid in _descendants(os.getpid()):
                if proc.command(pid) == self.order.victim:
                    os.kill(pid, signal.SIGKILL)
                    self.killed = True
            time.sleep(0.0005)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
        except OSError:  # it ended while we looked
            continue
    return found


async def main(order: Order) -> None:
    killer = Killer(order)
    container, identity = order.container, order.identity
    try:
        if order.restore is not None:
            number = order.restore
            await prepare_restore(container, number, epoch=identity.epoch, job_id=identity.job_id, on_step=killer)
        else:
            await take_checkpoint(
                container, identity, kind=order.kind, limit_seconds=PATIENCE, keep=2, reserve_bytes=0, on_step=killer
            )
        print("done", flush=True)
    except Exception as problem:
        print(f"failed: {type(problem).__name__}: {problem}", flush=True)
    print(f"killed: {killer.killed}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(pickle.load(sys.stdin.buffer)))
