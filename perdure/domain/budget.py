"""The deadline budget: how long a final checkpoint of a job would take now, against the notice; and the interval that
keeps it short.

It is predicted from the newest checkpoint that tells it, as the node measured it: reading the memory, writing what had
changed since the one before (as much as changes in one interval), what other jobs of the instance write to the same
store at the same time, and what comes besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from perdure.domain.values import Frozen

NOTICE_SECONDS = 120.0
"""Between Spot's notice and the end of the instance."""
WRITING = "writing"
"""The phase, beside the engine's steps, of the seconds in which the disk took what was new."""
NEIGHBOURS = "neighbours"
"""The same of the seconds that the instance's other jobs need for their own way to the same store."""
_SEEN, _HANDED_OVER = 5.0, 5.0
"""Seconds until a notice is seen, and for ending the container and freeing its volume."""
_GREEN, _AMBER = 0.5, 0.8
"""Parts of the notice. Beyond the second a slower disk or a busier neighbour is enough to lose the checkpoint."""
_AIMED_AT = 0.45
"""Part of the notice that an adapted interval aims at: a little below green, so that it does not go to and fro."""
_READING = "dump"
_STEPS = (
    "look",
    "room",
    "presync",
    "page sink",
    "look again",
    "pause",
    "measure",
    "names",
    "drain",
    "clone",
    "resume",
    "images",
)
_ENDING = ("assemble", "sync", "checksums", "upload")


class BudgetColour(StrEnum):
    """`green`: it fits twice; `amber`: it fits; `red`: it may not."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


class Measured(Protocol):
    """A checkpoint, as the domain or the API has it."""

    @property
    def number(self) -> int:
        """Rises with each of the job."""

    @property
    def full(self) -> int:
        """Its own number if it shares nothing with those before it."""

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by step."""


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


def predicted(checkpoints: Sequence[Measured]) -> Budget | None:
    """Of a job with these checkpoints, oldest first; None if none of them tells it. A full one says what everything
    takes to write, and a final one would share pages with it: the newest that shared some tells better."""
    for one in [*(one for one in reversed(checkpoints) if one.full != one.number), *reversed(checkpoints)]:
        if (budget := budget_of(one.phases)) is not None:
            return budget
    return None


def budget_of(phases: Mapping[str, float]) -> Budget | None:
    """By the phases of one checkpoint; None if they say nothing about its dump."""
    if _READING not in phases:
        return None
    reading, writing, neighbours = phases[_READING], _writing(phases), phases.get(NEIGHBOURS, 0.0)
    seconds = _seconds(phases)
    if seconds <= _GREEN * NOTICE_SECONDS:
        return Budget(seconds=seconds, colour=BudgetColour.GREEN)
    colour = BudgetColour.AMBER if seconds <= _AMBER * NOTICE_SECONDS else BudgetColour.RED
    return Budget(seconds=seconds, colour=colour, advice=_advice(reading, writing, neighbours))


def adapted_interval(
    configured: float, shortest: float, phases: Mapping[str, float], since_the_one_before: float
) -> float:
    """Seconds between checkpoints, from `shortest` to `configured`, at which a final one would be green: what changes
    is taken to grow with the time. `phases` are the newest checkpoint's, `since_the_one_before` the seconds in which
    that had changed which it wrote. The configured one where a shorter interval does not help, and where `shortest` is
    0 (never adapted)."""
    if not 0 < shortest < configured or since_the_one_before <= 0 or _READING not in phases:
        return configured
    changing = _writing(phases) + phases.get(NEIGHBOURS, 0.0)
    allowed = _AIMED_AT * NOTICE_SECONDS - (_seconds(phases) - changing)
    if changing <= 0 or allowed <= 0:
        return configured
    return min(configured, max(shortest, since_the_one_before * allowed / changing))


def _writing(phases: Mapping[str, float]) -> float:
    return phases.get(WRITING, 0.0) + _ending(phases)


def _ending(phases: Mapping[str, float]) -> float:
    return sum(phases.get(step, 0.0) for step in _ENDING)


def _seconds(phases: Mapping[str, float]) -> float:
    # What is new is written while the rest is still being read.
    together = max(phases[_READING], phases.get(WRITING, 0.0)) + _ending(phases)
    steps = sum(phases.get(step, 0.0) for step in _STEPS)
    return _SEEN + steps + together + phases.get(NEIGHBOURS, 0.0) + _HANDED_OVER


def _advice(reading: float, writing: float, neighbours: float) -> str:
    if neighbours > max(reading, writing):
        return (
            "most of it is waiting for the instance's other jobs, which write to the same store. Fewer jobs on one"
            " instance, a shorter interval, or an instance type with more network bandwidth would help."
        )
    if writing >= reading:
        return (
            "most of it is writing what changed since the checkpoint before. A shorter interval leaves less to write,"
            " and a job volume with more throughput writes it faster."
        )
    return "most of it is reading the job's memory. A job that holds less, or a faster instance type, would help."
