"""Every child process of a node's init: started, awaited and reaped in one place.

The init of a pid namespace inherits all orphans, containers included; their exit codes are to be had nowhere else. But
other threads of the init run programs through `subprocess`, which reaps its own: a child that nobody here has started
or waits for is left alone for a while. (Reaped here, it would seem to `subprocess` to have ended well.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping
from typing import IO

REMEMBERED = 256
"""Exit statuses kept of children that nobody has asked for yet."""
POLL_SECONDS = 0.01
STRANGERS_SECONDS = 5.0
"""A dead child that nobody has reaped for so long is an orphan."""


class Children:
    """One per process. `reap_forever` must run in some thread; everything else may be called by any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._ended: dict[int, int] = {}
        self._ours: set[int] = set()

    def spawn(
        self,
        argv: list[str],
        environment: Mapping[str, str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
    ) -> int:
        """Start a program (looked up on our PATH) in a session of its own; returns its pid. Raises OSError.

        No other descriptor is passed on.
        """
        with self._changed:  # so that it cannot be reaped before it is known
            pid = os.posix_spawnp(
                argv[0],
                argv,
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, own, place) for place, own in enumerate((stdin, stdout, stderr))],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE],
            )
            self._ended.pop(pid, None)  # of an orphan that had the number before
            self._ours.add(pid)
            self._changed.notify_all()
        return pid

    def wait(self, pid: int, limit_seconds: float | None = None) -> int | None:
        """Exit status of a child or inherited orphan: the code, or minus the signal. None when the limit came first."""
        with self._changed:
            if pid not in self._ended:
                self._ours.add(pid)
            if not self._changed.wait_for(lambda: pid in self._ended, limit_seconds):
                return None
            return self._ended.pop(pid)

    def run(self, argv: list[str], environment: Mapping[str, str], limit_seconds: float, log: IO[bytes]) -> int | None:
        """Run to the end with output to `log`; at the limit it and what it started are killed and None is returned."""
        with open(os.devnull) as nothing:
            pid = self.spawn(argv, environment, stdin=nothing.fileno(), stdout=log.fileno(), stderr=log.fileno())
        status = self.wait(pid, limit_seconds)
        if status is None:
            self.end_session(pid)
            self.wait(pid, 5.0)
        return status

    def end_session(self, leader: int) -> None:
        """SIGKILL every process of the session that `spawn` made for `leader`. Its status is still to be had."""
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(ProcessLookupError):
                    if os.getsid(int(name)) == leader:
                        os.kill(int(name), signal.SIGKILL)

    def reap_forever(self) -> None:
        """Collect every child that ends, but leave those of another thread's `subprocess` to it. Never returns."""
        stranger, since = 0, 0.0
        while True:
            try:
                # Looked at first, without the lock and without reaping it: spawn must not wait for an exit.
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                time.sleep(POLL_SECONDS)
                continue
            if self._reap_ours() or found is None:
                continue
            if found.si_pid != stranger:
                stranger, since = found.si_pid, time.monotonic()
            elif time.monotonic() - since > STRANGERS_SECONDS:
                self._reap([stranger])
                continue
            time.sleep(POLL_SECONDS)

    def _reap_ours(self) -> bool:
        """Collect those that we started or that somebody waits for; whether there were any."""
        with self._changed:
            return self._reap(list(self._ours))

    def _reap(self, pids: list[int]) -> bool:
        with self._changed:
            before = len(self._ours), len(self._ended)
            for pid in pids:
                with contextlib.suppress(ChildProcessError):  # none of our children (yet), or reaped by its own thread
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        self._ended[pid] = os.waitstatus_to_exitcode(status)
                        self._ours.discard(pid)
            for oldest in list(self._ended)[:-REMEMBERED]:
                del self._ended[oldest]
            self._changed.notify_all()
            return before != (len(self._ours), len(self._ended))
