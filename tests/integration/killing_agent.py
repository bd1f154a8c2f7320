"""The agent, which dies at the beginning of the restore's step that KILL_AT names."""

from __future__ import annotations

import functools
import os
import signal
import sys

from worker_agent import engine
from worker_agent.__main__ import main


def at(step: str) -> None:
    if step == os.environ["KILL_AT"]:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    engine.prepare_restore = functools.partial(engine.prepare_restore, on_step=at)
    sys.exit(main())
