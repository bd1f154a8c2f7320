"""TCP clients that wait to be accepted: CRIU cannot save a connection that no process has yet ("In-flight connection").

They go away by themselves, as a rule in a moment. In the freeze only the kernel's listening sockets are asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from worker_agent.engine.looking import Look, one_of_each

_LISTEN = "0A"
"""Linux, include/net/tcp_states.h."""

Listening = Mapping[int, frozenset[str]]
"""For one process of each network namespace: the inodes of the container's sockets that listen there."""


def listening(look: Look) -> Listening:
    """Which of the container's sockets listen. Blocks shortly."""
    own = {str(inode) for inode in look.sockets}
    spaces = one_of_each(look.processes, "net")
    return {pid: frozenset(own & {inode for inode, _ in _listeners(pid)}) for pid in spaces}


def who_waits_for(listening: Listening) -> int | None:
    """A process whose network has a client that waits at one of these sockets; None if there is none."""
    for pid, sockets in listening.items():
        if sockets and any(waiting and inode in sockets for inode, waiting in _listeners(pid)):
            return pid
    return None


def _listeners(pid: int) -> Iterator[tuple[str, int]]:
    """Inode, and how many clients wait (the kernel shows that as bytes to read). The table begins with those that
    listen; the rest of it, which may be everybody's connections, is not read."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{name}", encoding="ascii") as table:
            next(table, None)
            for line in table:
                words = line.split()
                if words[3] != _LISTEN:
                    break
                yield words[9], int(words[4].partition(":")[2], 16)
