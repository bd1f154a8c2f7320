"""A node's init reaps every child, and no other thread's: subprocess.run in another thread gets its own exit code."""

from __future__ import annotations

import subprocess
import sys

from tests.patience import PATIENCE

PROGRAM = """
import os, subprocess, threading
from localcloud.nodes.inside.children import Children

children = Children()
reaper = threading.Thread(target=children.reap_forever, daemon=True)
reaper.start()
wrong, right = [], []

def beside():
    for _ in range(60):
        status = subprocess.run(["sh", "-c", "exit 3"]).returncode
        (right if status == 3 else wrong).append(status)

def ours():
    nothing = os.open(os.devnull, os.O_RDWR)
    for _ in range(60):
        pid = children.spawn(["sh", "-c", "exit 5"], os.environ, stdin=nothing, stdout=nothing, stderr=nothing)
        status = children.wait(pid, 300)
        (right if status == 5 else wrong).append(status)

threads = [threading.Thread(target=work) for work in (beside, beside, ours, ours)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert reaper.is_alive(), "the reaper died"
assert not wrong and len(right) == 4 * 60, (wrong, len(right))
# An orphan, as a container is to its node's init: it is ours from the moment that its parent is gone.
import ctypes
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
nothing = os.open(os.devnull, os.O_RDWR)
reader, writer = os.pipe()
command = ["sh", "-c", "(sleep 0.2; exit 7) & echo $!"]
parent = children.spawn(command, os.environ, stdin=nothing, stdout=writer, stderr=nothing)
orphan = int(os.read(reader, 20))
assert children.wait(parent, 300) == 0
assert children.wait(orphan, 300) == 7
print("all as it should be")
"""


def test_the_reaper_lives_and_steals_from_no_other_thread() -> None:
    # In a process of its own: it reaps all that it has.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.endswith("all as it should be\n"), done.stderr[-2000:]
