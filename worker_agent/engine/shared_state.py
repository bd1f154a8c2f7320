"""What a process shares with its parent without being a thread of it (clone with CLONE_VM, CLONE_FS, CLONE_SIGHAND):
CRIU saves none of it ("Can't make VM id")."""

from __future__ import annotations

import ctypes
import os

_KCMP = {"x86_64": 312, "aarch64": 272}
_KINDS = {1: "memory", 3: "working folder and umask", 4: "signal handlers"}
"""Linux, include/uapi/linux/kcmp.h: KCMP_VM, KCMP_FS, KCMP_SIGHAND. (Shared descriptors are saved.)"""

_libc = ctypes.CDLL(None, use_errno=True)


def shared_with_parent(pid: int, parent: int) -> str:
    """What the two have in common, as words; empty if nothing, or if one is gone. (In a vfork, the memory.)"""
    number = _KCMP.get(os.uname().machine)
    if number is None:
        return ""
    return ", ".join(word for kind, word in _KINDS.items() if _libc.syscall(number, pid, parent, kind, 0, 0) == 0)
