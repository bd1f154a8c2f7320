"""Small Python programs of which a test looks at what the kernel shows."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

THEN_WAIT = "\nimport sys; print(flush=True); sys.stdin.read()"


@contextlib.contextmanager
def running(code: str) -> Iterator[int]:
    """A Python program that has said its first line."""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()
