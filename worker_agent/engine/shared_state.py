"""What a process shares with its parent without being a thread of it (clone with CLONE_VM, CLONE_FS, CLONE_SIGHAND),
and what a thread does not share with its process (unshare): CRIU saves none of it. It refuses the former ("Can't make
VM id"), and takes the process's for the latter."""

from __future__ import annotations

import contextlib
import ctypes
import os

_KCMP = {"x86_64": 312, "aarch64": 272}
_KINDS = {1: "memory", 3: "working folder and umask", 4: "signal handlers"}
"""Linux, include/uapi/linux/kcmp.h: KCMP_VM, KCMP_FS, KCMP_SIGHAND. (Shared descriptors are saved.)"""
_OF_THREADS = {2: "descriptors", 3: "working folder and umask"}
"""KCMP_FILES, KCMP_FS."""
_NAMESPACES = ("net", "mnt", "uts", "ipc")

_libc = ctypes.CDLL(None, use_errno=True)


def shared_with_parent(pid: int, parent: int) -> str:
    """What the two have in common, as words; empty if nothing, or if one is gone. (In a vfork, the memory.)"""
    number = _KCMP.get(os.uname().machine)
    if number is None:
        return ""
    return ", ".join(word for kind, word in _KINDS.items() if _libc.syscall(number, pid, parent, kind, 0, 0) == 0)


def own_of_thread(pid: int, tid: int) -> str:
    """What this thread has for itself, as words; empty if nothing, or if it is gone."""
    number = _KCMP.get(os.uname().machine)
    if number is None:
        return ""
    found = [word for kind, word in _OF_THREADS.items() if _libc.syscall(number, pid, tid, kind, 0, 0) > 0]
    with contextlib.suppress(OSError):
        places = (f"/proc/{one}/ns" for one in (pid, tid))
        first, own = ([os.readlink(f"{place}/{kind}") for kind in _NAMESPACES] for place in places)
        found += [f"{kind} namespace" for kind, one, other in zip(_NAMESPACES, first, own, strict=True) if one != other]
    return ", ".join(found)
