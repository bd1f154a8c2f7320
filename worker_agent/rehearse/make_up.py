"""What a job is made of, as far as it decides whether it can be restored: programs, kinds of descriptors, mounts."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable

from perdure.image.mounts import read_mounts
from worker_agent import proc

_MOST_DESCRIPTORS = 2000
"""Of one process. One with more of them has many of the same kind."""
_LONGEST = 1.0
"""Seconds: what is not seen within them is seen the next time, or is rare."""
_NAMED = re.compile(r"^(anon_inode:\[?[a-z_]+|socket|pipe|/memfd|/dev/|/proc/)")


def make_up(pids: Iterable[int]) -> frozenset[str]:
    """One word for each program, each kind of descriptor and each mount. A process that ends meanwhile is left out.
    Blocks for a second at most."""
    found: set[str] = set()
    end = time.monotonic() + _LONGEST
    for place, pid in enumerate(sorted(pids)):
        with contextlib.suppress(OSError):
            found.add(f"program {os.path.basename(os.readlink(f'/proc/{pid}/exe'))}")
            found |= _descriptors(pid, end)
            if place == 0:
                found |= _mounts(pid)
        if time.monotonic() > end:
            break
    return frozenset(map(proc.printable, found))  # names are the job's, and this is kept as JSON


def _descriptors(pid: int, end: float) -> set[str]:
    folder, found = f"/proc/{pid}/fd", set()
    for place, name in enumerate(os.listdir(folder)):
        if place >= _MOST_DESCRIPTORS or time.monotonic() > end:
            break
        with contextlib.suppress(OSError):
            found.add(f"descriptor {_kind(f'{folder}/{name}')}")
    return found


def _kind(descriptor: str) -> str:
    link = os.readlink(descriptor)
    named = _NAMED.match(link)
    if named is None:
        return "file"
    if named[1] == "socket":
        return f"socket {os.getxattr(descriptor, 'system.sockprotoname').strip(bytes(1)).decode('ascii', 'replace')}"
    return link if named[1] == "/dev/" else named[1]


def _mounts(pid: int) -> set[str]:
    return {f"mount {mount.point} {mount.kind}"[:300] for mount in read_mounts(pid)}
