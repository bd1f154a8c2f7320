"""Unix sockets that were bound by a relative name by which CRIU does not find them: the name has to be the end of the
socket's path, letter by letter (sk-unix.c, cut_path_ending). So `./sock` is not found, nor one that was moved."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
from collections.abc import Iterator

from worker_agent import proc
from worker_agent.engine.descriptors import copied
from worker_agent.engine.looking import Look

_SIOCUNIXFILE = 0x89E0
_RELATIVE = re.compile(r"^\S+ \S+ \S+ \S+ \S+ \S+ +(\d+) [^/@\n]", re.MULTILINE)
"""Lines of /proc/net/unix: the inode of one with such a name (an abstract one begins with @). It only tells which are
worth asking: a name may hold a newline, and be a neighbour's."""
_GONE = " (deleted)"


def not_found_again(look: Look) -> Iterator[tuple[int, int, str]]:
    """Process, descriptor and name of each such socket. Blocks shortly."""
    suspects: set[int] = set()
    with contextlib.suppress(OSError):  # the job has ended
        suspects = set(map(int, _RELATIVE.findall(proc.read(f"/proc/{look.init_pid}/net/unix"))))
    for inode in sorted(suspects & look.sockets.keys()):
        one = look.sockets[inode]
        with contextlib.suppress(OSError):  # closed while we looked
            name, path = _name_and_path(one.pid, one.number)
            if name and not name.startswith("/") and not path.removesuffix(_GONE).endswith(f"/{name}"):
                yield one.pid, one.number, name


def _name_and_path(pid: int, number: int) -> tuple[str, str]:
    """By what name it was bound (empty for an abstract one, or none), and where that is."""
    with copied(pid, number) as copy:
        asking = socket.socket(fileno=copy)
        try:
            name = asking.getsockname()
        finally:
            asking.detach()  # the copy is closed by its owner
        file = fcntl.ioctl(copy, _SIOCUNIXFILE)
    try:
        return name if isinstance(name, str) else "", os.readlink(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
