"""How a program that may have spoken to Temporal ends."""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn


def leave(status: int) -> NoReturn:
    """End this process with that exit code, after what `atexit` holds and all that was printed.

    The interpreter is not taken apart: the threads of Temporal's client outlive its last call, and one that comes back
    meanwhile ends the process by SIGABRT or SIGSEGV, whatever its exit code was to be (temporalio/sdk-python#300; seen
    here in 6 of 55 processes whose server was away, and in 1 of 30 that had run a worker).
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # Closed before we began (`>&-`).
                stream.flush()
        except OSError:
            status = status or 1  # What was printed is lost: a full disk, say.
    os._exit(status)
