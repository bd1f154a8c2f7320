"""The node's systemd, as far as it matters: programs started at boot and again whenever they end."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from localcloud.nodes.inside.children import Children
from perdure.waiting import until

log = logging.getLogger(__name__)

SOCKET = Path("/run/perdure/agent.sock")
RESTART_SECONDS = 1.0
"""RestartSec of their units."""
BROKEN_AFTER = 3
"""An agent that ended so often before it listened is broken: the node goes on without it."""


def keep_running(
    name: str, children: Children, program: list[str], environment: Mapping[str, str], log_file: Path
) -> Callable[[], int]:
    """Run `program` for ever in a thread of its own, its output appended to `log_file`. Returns once it was started,
    with a way to ask how often it has ended since."""

    def start() -> int:
        with open(os.devnull, "rb") as nothing, log_file.open("ab") as out:
            return children.spawn(
                program, environment, stdin=nothing.fileno(), stdout=out.fileno(), stderr=out.fileno()
            )

    ends: list[int | None] = []

    def supervise(pid: int) -> None:
        while True:
            ends.append(children.wait(pid))
            log.warning("%s ended with %s; starting it again", name, ends[-1])
            time.sleep(RESTART_SECONDS)
            pid = start()

    threading.Thread(target=supervise, args=(start(),), name=name, daemon=True).start()
    return lambda: len(ends)


def wait_until_it_listens(limit_seconds: float, failures: Callable[[], int]) -> bool:
    """Whether the agent's socket appeared, within the limit and before the agent failed BROKEN_AFTER times."""
    with contextlib.suppress(TimeoutError):
        return until(lambda: SOCKET.is_socket() or failures() >= BROKEN_AFTER, limit_seconds) and SOCKET.is_socket()
    return False


def agent_program() -> list[str]:
    """The agent, on the Python that runs us."""
    return [sys.executable, "-m", "worker_agent"]
