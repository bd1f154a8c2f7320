"""What preflight says: findings, and the verdict that follows from them.

protectable                 nothing stands in the way of a checkpoint, and a reclaim is survived
protectable with changes    something does, and each such thing has a fix
not protectable             something does that no change of the job or of its settings takes away
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from worker_agent.proc import printable

_LONGEST = 900
"""Characters of a summary: it becomes one line of a job's timeline."""


class Level(StrEnum):
    """How much a finding weighs."""

    NOTE = "note"
    """It is saved, or comes back in another way that people should know of."""
    CHANGE = "change"
    """It stands in the way, and `fix` takes it away."""
    BLOCK = "block"
    """It stands in the way, and belongs to what the job is."""


class Verdict(StrEnum):
    """The answer for a whole container."""

    PROTECTABLE = "protectable"
    WITH_CHANGES = "protectable with changes"
    NOT = "not protectable"


@dataclass(frozen=True)
class Process:
    """One process: its number on this node, inside the container, and its short name (never its arguments: they may
    hold secrets)."""

    pid: int
    inner: int
    command: str

    def __str__(self) -> str:
        return f"process {self.inner} ({self.command})"


@dataclass(frozen=True)
class Finding:
    """One thing. `kind` is short and stable, for programs; `what` a phrase, `fix` a sentence, for people; `held` is the
    descriptor, mapping or mount."""

    level: Level
    kind: str
    what: str
    fix: str = ""
    process: Process | None = None
    held: str = ""

    @property
    def sentence(self) -> str:
        """Who holds what."""
        subject = f"{self.process} " if self.process else ""
        held = f" ({self.held})" if self.held else ""
        text = f"{subject}{self.what}{held}."
        return printable(text[:1].upper() + text[1:])  # paths and names are the job's


@dataclass(frozen=True)
class Report:
    """Everything that was found in one look, without repetitions, the gravest first."""

    findings: tuple[Finding, ...] = ()

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> Report:
        """One finding for each kind and process: a server with a thousand connections says it once."""
        order = list(Level)[::-1]
        kept: dict[tuple[object, ...], Finding] = {}
        for finding in findings:
            kept.setdefault((finding.kind, finding.process), finding)
        return cls(tuple(sorted(kept.values(), key=lambda finding: order.index(finding.level))))

    @property
    def verdict(self) -> Verdict:
        """The gravest finding decides."""
        levels = {finding.level for finding in self.findings}
        if Level.BLOCK in levels:
            return Verdict.NOT
        return Verdict.WITH_CHANGES if Level.CHANGE in levels else Verdict.PROTECTABLE

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Those that stand in the way."""
        return tuple(finding for finding in self.findings if finding.level is not Level.NOTE)

    @property
    def fingerprint(self) -> str:
        """The same for the same verdict for the same reasons, whichever processes hold the things now."""
        return "; ".join([self.verdict, *sorted({finding.kind for finding in self.problems})])

    @property
    def summary(self) -> str:
        """One line for people."""
        told = self.problems or self.findings
        parts = [f"{finding.sentence} {finding.fix}".strip() for finding in told]
        text = " ".join([f"Preflight: {self.verdict}.", *parts])
        return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        findings = [{**asdict(finding), "sentence": finding.sentence} for finding in self.findings]
        return {"verdict": str(self.verdict), "findings": findings}

    def joined(self, other: Report) -> Report:
        """What was found in either look."""
        return Report.of([*self.findings, *other.findings])
