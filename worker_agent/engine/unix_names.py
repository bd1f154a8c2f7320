"""Unix sockets that were bound by a relative name by which CRIU does not find them: the name has to be the end of the
socket's path, letter by letter (sk-unix.c, cut_path_ending). So `./sock` is not found, nor one that was moved."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from worker_agent.engine.descriptors import copied
from worker_agent.engine.looking import Look

_SIOCUNIXFILE = 0x89E0
_RELATIVE = re.compile(r"^\S+ \S+ \S+ \S+ \S+ \S+ +(\d+) ([^/@\n].*)$", re.MULTILINE)
"""Lines of /proc/net/unix: inode, name. An abstract name begins with @."""
_GONE = " (deleted)"


def not_found_again(look: Look) -> Iterator[tuple[int, int, str]]:
    """Process, descriptor and name of each such socket. Blocks shortly."""
    names: dict[str, str] = {}
    with contextlib.suppress(OSError):  # the job has ended
        names = dict(_RELATIVE.findall(Path(f"/proc/{look.init_pid}/net/unix").read_text("utf-8", "surrogateescape")))
    for one in look.descriptors if names else ():
        name = names.get(one.link.removeprefix("socket:[").removesuffix("]"))
        if name is not None:
            with contextlib.suppress(OSError):  # closed while we looked
                if not _path(one.pid, one.number).removesuffix(_GONE).endswith(f"/{name}"):
                    yield one.pid, one.number, name


def _path(pid: int, number: int) -> str:
    with copied(pid, number) as copy:
        file = fcntl.ioctl(copy, _SIOCUNIXFILE)
    try:
        return os.readlink(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
