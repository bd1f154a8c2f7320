"""Outages: how the time a job stood still divides into phases, and how much of its work had to be done again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from perdure.domain.checkpoints import Checkpoint
from perdure.domain.jobs import Outage
from perdure.domain.values import Frozen

PHASES = ("frozen", "dumped", "detached", "waited", "attached", "checked", "restored", "started clean")
"""The phases of an outage in their order; those that did not happen are left out. It ends with one of the last two."""

CHECK_STEP = "checked"
"""A phase that few outages have: the last instance did not let go of the volume as it should."""
FREEZE_STEP = "pause"
"""The engine's name for the step that freezes the processes (key of Checkpoint.phases)."""


class Milestones(Frozen):
    """What is known of one outage between its start and its end; times UTC, as the control plane or the node saw them.

    `final`: the final checkpoint, if there is one. `available_at`: the volume was seen `available` after the hand-over.
    `detach_seconds`: spent on getting the volume off a lost instance after the next container had come.
    `checked_seconds`: the next node's, to replay the log of a volume that was not unmounted, and to check it.
    """

    final: Checkpoint | None = None
    available_at: datetime | None = None
    accepted_at: datetime | None = None
    ready_at: datetime | None = None
    detach_seconds: float = 0.0
    checked_seconds: float = 0.0


def outage_phases(
    started_at: datetime, ended_at: datetime, known: Milestones, *, restored: bool = True
) -> dict[str, float]:
    """Seconds by phase, in order. They follow each other without gaps, so that they add up to the outage.

    Clocks of several machines are compared: a phase that seems to end before it began counts 0.
    """
    phases: dict[str, float] = {}
    cursor = started_at

    def until(name: str, instant: datetime | None) -> None:
        nonlocal cursor
        if instant is None:
            return
        phases[name] = phases.get(name, 0.0) + max(0.0, (instant - cursor).total_seconds())
        cursor = max(cursor, instant)

    if known.final is not None:
        frozen = known.final.phases.get(FREEZE_STEP, 0.0)
        until("frozen", min(started_at + timedelta(seconds=frozen), known.final.committed_at))
        until("dumped", known.final.committed_at)
    until("detached", known.available_at)
    until("waited", known.accepted_at)
    if known.detach_seconds:
        until("detached", cursor + timedelta(seconds=known.detach_seconds))
    until("attached", known.ready_at)
    if known.checked_seconds:
        until(CHECK_STEP, min(cursor + timedelta(seconds=known.checked_seconds), ended_at))
    until("restored" if restored else "started clean", ended_at)
    return {name: round(phases[name], 3) for name in PHASES if name in phases}


def work_lost_seconds(death: datetime, kept_until: datetime, outages: Iterable[Outage]) -> float:
    """Run time of the job between `kept_until` (the freeze it was restored from, or its clean start) and its death.

    Time it stood still in between was no work: outages that lie in that span are subtracted.
    """
    idle = sum(
        (outage.seconds or 0.0)
        for outage in outages
        if outage.ended_at is not None and kept_until <= outage.started_at and outage.ended_at <= death
    )
    return max(0.0, round((death - kept_until).total_seconds() - idle, 3))
