"""The deadline budget: how long a final checkpoint of a job would take now, against the notice.

It is predicted from the newest checkpoint, as the node measured it: reading the memory, writing what had changed since
the one before (as much as changes in one interval), and what comes besides. Other jobs of the same instance that write
at the same time are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from perdure.domain.values import Frozen

NOTICE_SECONDS = 120.0
"""Between Spot's notice and the end of the instance."""
WRITING = "writing"
"""The phase, beside the engine's steps, of the seconds in which the disk took what was new."""
_SEEN, _HANDED_OVER = 5.0, 5.0
"""Seconds until a notice is seen, and for ending the container and freeing its volume."""
_GREEN, _AMBER = 0.5, 0.8
"""Parts of the notice. Beyond the second a slower disk or a busier neighbour is enough to lose the checkpoint."""
_READING = "dump"
_STEPS = ("look", "room", "presync", "page sink", "pause", "measure", "names", "drain", "clone", "resume", "images")
_ENDING = ("assemble", "sync", "checksums", "upload")


class BudgetColour(StrEnum):
    """`green`: it fits twice; `amber`: it fits; `red`: it may not."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


class Budget(Frozen):
    """Predicted seconds from the notice until the volume is free, and what would help (empty when green)."""

    seconds: float
    notice_seconds: float = NOTICE_SECONDS
    colour: BudgetColour
    advice: str = ""

    @property
    def sentence(self) -> str:
        """For people."""
        said = (
            f"A final checkpoint would take about {self.seconds:.0f} s of the {self.notice_seconds:.0f} s of a notice"
        )
        return f"{said} ({self.colour})." if not self.advice else f"{said} ({self.colour}): {self.advice}"


def budget_of(phases: Mapping[str, float]) -> Budget | None:
    """By the phases of the newest checkpoint; None if they say nothing about its dump."""
    if _READING not in phases:
        return None
    reading, writing = phases[_READING], phases.get(WRITING, 0.0) + sum(phases.get(step, 0.0) for step in _ENDING)
    # What is new is written while the rest is still being read.
    together = max(reading, phases.get(WRITING, 0.0)) + sum(phases.get(step, 0.0) for step in _ENDING)
    seconds = _SEEN + sum(phases.get(step, 0.0) for step in _STEPS) + together + _HANDED_OVER
    if seconds <= _GREEN * NOTICE_SECONDS:
        return Budget(seconds=seconds, colour=BudgetColour.GREEN)
    colour = BudgetColour.AMBER if seconds <= _AMBER * NOTICE_SECONDS else BudgetColour.RED
    return Budget(seconds=seconds, colour=colour, advice=_advice(reading, writing))


def _advice(reading: float, writing: float) -> str:
    if writing >= reading:
        return (
            "most of it is writing what changed since the checkpoint before. A shorter interval leaves less to write,"
            " and a job volume with more throughput writes it faster."
        )
    return "most of it is reading the job's memory. A job that holds less, or a faster instance type, would help."
