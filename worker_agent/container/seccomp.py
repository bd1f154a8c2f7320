"""The system call filter of protected containers: io_uring answers "not implemented", so that programs do without it.

CRIU cannot save an io_uring ring, and one ring makes a whole job unprotectable. Runtimes that know io_uring (libuv and
so node, redis, new databases) ask for a ring at their start and fall back to epoll when there is none. A filter is
part of what CRIU saves and restores.
"""

from __future__ import annotations

import errno
from typing import Any

IO_URING = ("io_uring_setup", "io_uring_enter", "io_uring_register")

_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
"""With every architecture that the machine runs: libseccomp kills a program of one that the filter does not name."""
_STRICTER = {"SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"}


def refuse_io_uring(config: dict[str, Any], machine: str) -> bool:
    """Change config.json's content so that io_uring's calls answer ENOSYS; False, and nothing changed, on a machine
    (`uname -m`) whose architectures are not known here.

    A container without a filter (a privileged one, say) gets one that allows everything else. A filter that is there
    (Docker's default allows or refuses io_uring by version) keeps all it says of other calls, and a rule that kills or
    traps stays. Idempotent.
    """
    if machine not in _ARCHITECTURES:
        return False
    linux = config["linux"] = config.get("linux") or {}
    seccomp = linux.get("seccomp")
    if not seccomp:
        seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": _ARCHITECTURES[machine]}
    rules, left = _without(seccomp.get("syscalls") or [])
    if left:
        rules.append({"names": left, "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS})
    linux["seccomp"] = {**seccomp, "syscalls": rules}
    return True


def _without(rules: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rules without io_uring's calls, and those of its calls that need a rule of ours: two rules for one call
    contradict each other, and the one that allows would win."""
    kept, stricter = [], set()
    for rule in rules:
        names = list(rule.get("names") or [])
        if rule.get("action") in _STRICTER:
            stricter |= set(names)
        elif set(names) & set(IO_URING):
            names = [name for name in names if name not in IO_URING]
            if not names:
                continue
            rule = {**rule, "names": names}
        kept.append(rule)
    return kept, [name for name in IO_URING if name not in stricter]
