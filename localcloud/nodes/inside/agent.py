"""The node's systemd, as far as it matters: programs started at boot and again whenever they end."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from localcloud.nodes.inside.children import Children

log = logging.getLogger(__name__)

SOCKET = Path("/run/perdure/agent.sock")
RESTART_SECONDS = 1.0
"""RestartSec of their units."""


def keep_running(
    name: str, children: Children, program: list[str], environment: Mapping[str, str], log_file: Path
) -> None:
    """Run `program` for ever in a thread of its own, its output appended to `log_file`; returns once it was started."""

    def start() -> int:
        with open(os.devnull, "rb") as nothing, log_file.open("ab") as out:
            return children.spawn(
                program, environment, stdin=nothing.fileno(), stdout=out.fileno(), stderr=out.fileno()
            )

    def supervise(pid: int) -> None:
        while True:
            log.warning("%s ended with %s; starting it again", name, children.wait(pid))
            time.sleep(RESTART_SECONDS)
            pid = start()

    threading.Thread(target=supervise, args=(start(),), name=name, daemon=True).start()


def wait_until_it_listens(limit_seconds: float) -> bool:
    """Whether the agent's socket appeared within the limit."""
    deadline = time.monotonic() + limit_seconds
    while not SOCKET.is_socket():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def agent_program() -> list[str]:
    """The agent, on the Python that runs us."""
    return [sys.executable, "-m", "worker_agent"]
