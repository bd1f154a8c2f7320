"""A program's end: everything is said, and the exit code is the one that was meant."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.patience import PATIENCE

_PROGRAM = """
import atexit, sys
from perdure.leaving import leave
atexit.register(print, "at exit")
print("printed")
leave(int(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("place", "meant", "status", "said"),
    [("/dev/stdout", 3, 3, "printed\nat exit\n"), ("/dev/full", 0, 1, ""), ("/dev/full", 3, 3, "")],
)
def test_what_was_printed_arrives_and_the_exit_code_stays(place: str, meant: int, status: int, said: str) -> None:
    argv = ["sh", "-c", f'"$0" -c "$1" {meant} >{place}', sys.executable, _PROGRAM]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (status, said)
