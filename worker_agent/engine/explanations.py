"""The failure explainer: the cause among all that CRIU, runc and the kernel say when something goes wrong.

Lines are asked in the order in which they were said: the first known one is the cause, what follows are consequences.
The table is known_failures.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from worker_agent.engine.known_failures import TABLE, Blame


@dataclass(frozen=True)
class Explanation:
    """Why it failed and what helps, in plain words."""

    cause: str
    fix: str = ""
    blame: Blame = Blame.UNCLEAR

    @property
    def sentence(self) -> str:
        """Both, as people read them."""
        return f"{self.cause}. {self.fix}".strip() if self.fix else self.cause

    @property
    def node_fault(self) -> bool:
        """Is it surely the node's fault?"""
        return self.blame is Blame.NODE


_COMPILED = tuple((re.compile(pattern), cause, fix, blame) for pattern, cause, fix, blame in TABLE)
_CONSEQUENCES = re.compile(
    r"recv req error|FAILED\.?\s*$|exited, status=|(?:killed|stopped) by signal|Can't setup RLIMIT_NOFILE"
    r"|criu failed: type|Failed to remove cgroup"
)
"""Said at every failure, whatever the cause, or (RLIMIT_NOFILE, for want of CAP_SYS_RESOURCE) at every run."""


def telling(lines: Iterable[str]) -> list[str]:
    """Those of CRIU's lines that may name a cause, in their order; the consequences if there is nothing else."""
    said = [line.strip() for line in lines if line.strip() and not re.search(r"FAILED|RLIMIT_NOFILE", line)]
    return [line for line in said if not _CONSEQUENCES.search(line)] or said


def explain(message: str | Iterable[str]) -> Explanation | None:
    """What the words of CRIU, runc or the kernel mean; None if nobody has met them yet. Several lines: the first known
    one. Where an unknown line came before it, the node is not to be blamed: that may have been the cause."""
    lines = telling(message.splitlines() if isinstance(message, str) else message)
    for place, line in enumerate(lines):
        known = _meaning(line)
        if known is not None:
            sure = place == 0 or known.blame not in (Blame.NODE, Blame.MEMORY)
            return known if sure else Explanation(known.cause, known.fix, Blame.UNCLEAR)
    return None


def _meaning(line: str) -> Explanation | None:
    for pattern, cause, fix, blame in _COMPILED:
        found = pattern.search(line)
        if found:
            # A format string of ours, filled with what the log says.
            words = [found[0], *(group or "?" for group in found.groups())]
            return Explanation(cause.format(*words), fix, blame)
    return None
