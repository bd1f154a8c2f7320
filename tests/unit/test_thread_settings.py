"""What CRIU's image lacks of a thread, noted of a real process and given to another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perdure.domain.checkpoints import ThreadSettings
from tests.programs import THEN_WAIT, running
from worker_agent.engine.thread_settings import noted, set_again

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="other processes' settings need root")

CPU = min(os.sched_getaffinity(0))
SETTINGS = f"""
import ctypes, os, threading
os.sched_setaffinity(0, {{{CPU}}})
libc = ctypes.CDLL(None)
libc.prctl(29, 77000, 0, 0, 0)
libc.syscall({{"x86_64": 251, "aarch64": 30}}[os.uname().machine], 1, 0, 3 << 13 | 7)
open("/proc/self/coredump_filter", "w").write("0x11")
"""
THREAD = "import threading, time; threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()"


def test_an_ordinary_process_has_nothing_of_its_own() -> None:
    with running(THREAD + THEN_WAIT) as pid:
        assert noted([pid], pid) == {}


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU: a thread bound to it is as any other")
def test_what_one_had_another_gets_thread_by_thread() -> None:
    with running(SETTINGS + THREAD + THEN_WAIT) as pid, running(THREAD + THEN_WAIT) as other:
        threads, others = (sorted(map(int, os.listdir(f"/proc/{one}/task"))) for one in (pid, other))
        found = noted([pid], pid)
        ranks = ThreadSettings(cpus=[CPU], io_priority=3 << 13 | 7, timer_slack=77000)
        assert found == {threads[0]: ranks.model_copy(update={"core_filter": 0x11}), threads[1]: ranks}
        set_again([other], other, dict(zip(others, found.values(), strict=True)))
        assert list(noted([other], other).values()) == list(found.values())
        assert Path(f"/proc/{other}/coredump_filter").read_text() == "00000011\n"


def test_a_cpu_that_this_node_has_not_is_left_out() -> None:
    with running(THEN_WAIT) as pid:
        set_again([pid], pid, {pid: ThreadSettings(cpus=[8000], timer_slack=88000), 1 << 22: ThreadSettings(cpus=[0])})
        assert noted([pid], pid) == {pid: ThreadSettings(timer_slack=88000)}
