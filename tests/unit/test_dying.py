"""Who is to die gets a usual priority, each thread of it."""

from __future__ import annotations

import os
import subprocess
import sys

from perdure.dying import hurry

PROGRAM = """
import threading
threading.Thread(target=input).start()
print("ready", flush=True)
"""


def test_each_thread_gets_a_usual_priority() -> None:
    lowest = ["chrt", "--idle", "0", "nice", "-n", "19"]
    with subprocess.Popen(
        [*lowest, sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        threads = [int(name) for name in os.listdir(f"/proc/{process.pid}/task")]
        assert len(threads) == 2 and priorities(threads) == {(os.SCHED_IDLE, 19)}
        hurry(process.pid)
        assert priorities(threads) == {(os.SCHED_OTHER, 0)}
        process.kill()
        process.wait()
        hurry(process.pid)


def priorities(threads: list[int]) -> set[tuple[int, int]]:
    return {(os.sched_getscheduler(one), os.getpriority(os.PRIO_PROCESS, one)) for one in threads}
