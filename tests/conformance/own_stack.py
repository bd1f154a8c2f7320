"""A local stack for these tests alone: what they take away, and where capacity is left, is nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from localcloud.nodes.launcher import remove_folder
from localcloud.stack.client import StackClient
from localcloud.stack.stack import StackPlace

PERDURE = Path(sys.executable).parent / "perdure"
RUNNING = "PERDURE_CONFORMANCE_STACK"
"""A variable that names a stack to use, which runs already and goes on."""
UP_SECONDS, DOWN_SECONDS = 600, 300


@contextmanager
def own_stack() -> Iterator[StackClient]:
    """The stack's client. The stack is gone afterwards, whatever happens in between; its logs stay on an error."""
    if running := os.environ.get(RUNNING):
        with closing(StackClient.of(StackPlace(running))) as client:
            yield client
        return
    place = StackPlace(f"conformance-{os.getpid()}")
    try:
        _local("up", "--detach", place, limit=UP_SECONDS)
        with closing(StackClient.of(place)) as client:
            yield client
    finally:
        _local("down", "", place, limit=DOWN_SECONDS)
    remove_folder(place.folder)
    place.lock_file.unlink(missing_ok=True)


def _local(command: str, option: str, place: StackPlace, *, limit: float) -> None:
    argv = [str(PERDURE), "local", command, *([option] if option else []), "--stack", place.name]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr[-800:]}")
