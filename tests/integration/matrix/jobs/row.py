"""What the Python jobs of the matrix share. Each sets something up, says `ready`, and keeps checking it until the file
`finish` is in its data folder; then it checks once more and prints the result. A wrong thing is named: exit code 3.

    python3 processes.py ROW DATA_FOLDER ROOT_LAYER_FOLDER

Standard library only; nothing in here knows where it runs.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Check = Callable[[], object]

libc = ctypes.CDLL(None, use_errno=True)


def places() -> tuple[str, str]:
    """The data folder, the folder on the root layer."""
    return sys.argv[2], sys.argv[3]


def expect(truth: object, what: str) -> None:
    """End the job unless `truth`."""
    if not truth:
        print("wrong:", what, flush=True)
        os._exit(3)


def same(found: object, wanted: object, what: str) -> None:
    """End the job unless the two are equal."""
    expect(found == wanted, f"{what}: {found!r:.300} instead of {wanted!r:.300}")


def call(name: str, *arguments: Any) -> int:
    """A function of the C library that answers -1 for an error."""
    done: int = getattr(libc, name)(*arguments)
    if done == -1:
        raise OSError(ctypes.get_errno(), name)
    return done


_last = [False]


def last() -> bool:
    """Is this the last check?"""
    return _last[0]


def go(check: Check, pause: float = 0.01) -> None:
    """Check until the end. `beat` in the data folder counts the checks, so that a test sees the job going on."""
    beat = os.open(f"{places()[0]}/beat", os.O_RDWR | os.O_CREAT)
    check()
    print("ready", flush=True)
    count = 0
    while not os.path.exists(f"{places()[0]}/finish"):
        check()
        count += 1
        os.pwrite(beat, b"%d\n" % count, 0)
        time.sleep(pause)
    _last[0] = True
    result = check()
    print("end", "" if result is None else result, flush=True)


def main(rows: dict[str, Any]) -> None:
    """Run the row named on the command line: a function of that name, which sets up and returns its check."""
    go(rows[sys.argv[1]]())
