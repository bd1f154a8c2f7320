"""Takes one checkpoint in a process of its own, which a test can kill: the container comes pickled on stdin, and the
step at whose beginning it stops, if any. Each step goes to stdout."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys

from perdure.domain.checkpoints import CheckpointKind
from tests.patience import PATIENCE
from worker_agent.engine import Container, Identity, take_checkpoint


async def main(container: Container, identity: Identity, stop_at: str) -> None:
    def reached(step: str) -> None:
        print(step, flush=True)
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)

    await take_checkpoint(
        container,
        identity,
        kind=CheckpointKind.PERIODIC,
        limit_seconds=PATIENCE,
        keep=2,
        reserve_bytes=0,
        on_step=reached,
    )


if __name__ == "__main__":
    asyncio.run(main(*pickle.load(sys.stdin.buffer)))
