"""A job's life as one line over its nodes: what it did when, from its first container to its end. Pure.

Stretches follow each other and say what the job did, each on the container (epoch) where it belongs. Marks are
instants: checkpoints, notices. Clocks of several machines are compared, so a stretch that seems to end before it begins
is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.jobs import Attempt, Job, JobState, Outage
from perdure.domain.outages import CHECK_STEP, FREEZE_STEP
from perdure.domain.run_time import stood_still_at
from perdure.domain.values import Frozen

FROZEN = "frozen"
"""The engine's name for the time that a job stood still for a checkpoint (key of Checkpoint.phases)."""


class StretchKind(StrEnum):
    """What a job does for a while. `start`: its container is there, its processes are not yet. `lost`: it ran, and
    that work had to be done again. The others are the phases of an outage (perdure.domain.outages)."""

    START = "start"
    RUN = "run"
    LOST = "lost"
    FREEZE = "freeze"
    DUMP = "dump"
    HAND_OVER = "hand-over"
    WAIT = "wait"
    VOLUME = "volume"
    RESTORE = "restore"


class Stretch(Frozen):
    """One of them. `ended_at` None: it goes on."""

    kind: StretchKind
    epoch: int
    started_at: datetime
    ended_at: datetime | None


class Mark(Frozen):
    """A checkpoint (its `number` and kind, and for how many seconds the job stood still), or AWS's notice."""

    kind: str
    """`periodic`, `requested`, `final` or `notice`."""
    epoch: int
    at: datetime
    number: int | None = None
    stood_seconds: float | None = None


class LifeLine(Frozen):
    """The stretches by their begin, and the marks by their instant."""

    stretches: list[Stretch]
    marks: list[Mark]


def life_line(job: Job, checkpoints: Sequence[Checkpoint], now: datetime) -> LifeLine:
    """The life of a job so far. `checkpoints`: all that were ever committed, not only those still offered."""
    found = [*_starts(job), *_runs(job, checkpoints, now)]
    for outage in job.outages:
        found += _closed(job, outage) if outage.ended_at else _open(job, outage, checkpoints)
    whole = [one for one in found if one.ended_at is None or one.ended_at > one.started_at]
    marks = [*map(_checkpoint, checkpoints), *_notices(job)]
    return LifeLine(
        stretches=sorted(whole, key=lambda one: (one.started_at, one.epoch)),
        marks=sorted(marks, key=lambda one: one.at),
    )


def _runs(job: Job, checkpoints: Sequence[Checkpoint], now: datetime) -> Iterator[Stretch]:
    lost = [(begin, outage.started_at) for outage in job.outages if (begin := _kept_until(job, outage, checkpoints))]
    for place, attempt in enumerate(job.attempts):
        if attempt.started_at is None:
            continue
        end = stood_still_at(job, place, now)
        goes_on = end == now and job.finished_at is None
        cuts = sorted({at for pair in lost for at in pair if attempt.started_at < at < end})
        edges = [attempt.started_at, *cuts, end]
        for number, (begin, until) in enumerate(pairwise(edges), start=2):
            again = any(begin >= first and until <= last for first, last in lost)
            kind = StretchKind.LOST if again else StretchKind.RUN
            last_one = goes_on and number == len(edges)
            yield Stretch(kind=kind, epoch=attempt.epoch, started_at=begin, ended_at=None if last_one else until)


def _kept_until(job: Job, outage: Outage, checkpoints: Sequence[Checkpoint]) -> datetime | None:
    """From where on work was lost in an outage; None: none was, or it is not known."""
    if not outage.work_lost_seconds:
        return None
    back_to = [
        one.frozen_at
        for one in checkpoints
        if one.number == outage.restored_from and one.frozen_at <= outage.started_at
    ]
    if back_to:
        return max(back_to)
    starts = [one.started_at for one in job.attempts if one.started_at and one.epoch <= outage.epoch]
    if outage.restored_from is None and starts:
        return min(starts)
    return outage.started_at - timedelta(seconds=outage.work_lost_seconds)


def _starts(job: Job) -> Iterator[Stretch]:
    """Containers that did not go on from an outage: from their arrival to their processes' start."""
    after_outage = {_goes_on_in(job, outage) for outage in job.outages}
    for place, attempt in enumerate(job.attempts):
        if attempt.epoch in after_outage:
            continue
        following = job.attempts[place + 1].accepted_at if place + 1 < len(job.attempts) else job.finished_at
        end = attempt.started_at or attempt.ended_at or following
        yield Stretch(kind=StretchKind.START, epoch=attempt.epoch, started_at=attempt.accepted_at, ended_at=end)
        before = job.attempts[place - 1] if place else None
        if before and before.ended_at and not any(outage.epoch == before.epoch for outage in job.outages):
            yield Stretch(
                kind=StretchKind.WAIT, epoch=attempt.epoch, started_at=before.ended_at, ended_at=attempt.accepted_at
            )


def _goes_on_in(job: Job, outage: Outage) -> int | None:
    """The epoch of the container that goes on after an outage, or will; None: it has not come yet."""
    later = [one for one in job.attempts if one.epoch > outage.epoch]
    if outage.ended_at is not None:
        before = [one for one in later if one.started_at is not None and one.accepted_at <= outage.ended_at]
        later = before[-1:] or later[:1]
    return later[-1].epoch if later else None


def _closed(job: Job, outage: Outage) -> Iterator[Stretch]:
    """The phases of an outage that is over: they follow each other without gaps, and none ends after it. Each is
    rounded to a microsecond, so their sum may be longer."""
    here, there = outage.epoch, _goes_on_in(job, outage) or outage.epoch
    order = [
        ("frozen", StretchKind.FREEZE, here),
        ("dumped", StretchKind.DUMP, here),
        ("detached", StretchKind.HAND_OVER, here),
        ("waited", StretchKind.WAIT, there),
        ("attached", StretchKind.VOLUME, there),
        (CHECK_STEP, StretchKind.VOLUME, there),
        ("restored", StretchKind.RESTORE, there),
        ("started clean", StretchKind.START, there),
    ]
    if outage.kind != "notice":  # a volume is taken off a lost instance after the next container came
        order[2], order[3] = order[3], ("detached", StretchKind.HAND_OVER, there)
    cursor = outage.started_at
    for phase, kind, epoch in order:
        end = cursor + timedelta(seconds=outage.phases.get(phase, 0.0))
        end = end if outage.ended_at is None else max(cursor, min(end, outage.ended_at))
        yield Stretch(kind=kind, epoch=epoch, started_at=cursor, ended_at=end)
        cursor = end


def _open(job: Job, outage: Outage, checkpoints: Sequence[Checkpoint]) -> Iterator[Stretch]:
    """What is known of an outage that is not over."""
    lost = next((one for one in job.attempts if one.epoch == outage.epoch), None)
    coming = next((one for one in reversed(job.attempts) if one.epoch > outage.epoch), None)
    final = next(
        (one for one in reversed(checkpoints) if one.epoch == outage.epoch and one.kind is CheckpointKind.FINAL), None
    )
    cursor, over = outage.started_at, job.finished_at
    if final is not None:
        frozen = min(cursor + timedelta(seconds=final.phases.get(FREEZE_STEP, 0.0)), final.committed_at)
        yield Stretch(kind=StretchKind.FREEZE, epoch=outage.epoch, started_at=cursor, ended_at=frozen)
        yield Stretch(kind=StretchKind.DUMP, epoch=outage.epoch, started_at=frozen, ended_at=final.committed_at)
        cursor = max(cursor, final.committed_at)
        if lost is not None and lost.ended_at is not None and lost.ended_at > cursor:
            yield Stretch(kind=StretchKind.HAND_OVER, epoch=outage.epoch, started_at=cursor, ended_at=lost.ended_at)
            cursor = lost.ended_at
    if coming is None:
        yield Stretch(kind=StretchKind.WAIT, epoch=outage.epoch, started_at=cursor, ended_at=over)
        return
    yield Stretch(kind=StretchKind.WAIT, epoch=coming.epoch, started_at=cursor, ended_at=coming.accepted_at)
    kind = StretchKind.RESTORE if job.state is JobState.RESTORING else StretchKind.VOLUME
    yield Stretch(kind=kind, epoch=coming.epoch, started_at=coming.accepted_at, ended_at=coming.started_at or over)


def _checkpoint(checkpoint: Checkpoint) -> Mark:
    return Mark(
        kind=str(checkpoint.kind),
        epoch=checkpoint.epoch,
        at=checkpoint.frozen_at,
        number=checkpoint.number,
        stood_seconds=checkpoint.phases.get(FROZEN),
    )


def _notices(job: Job) -> Iterator[Mark]:
    noticed: list[Attempt] = [one for one in job.attempts if one.noticed_at is not None]
    for attempt in noticed:
        if attempt.noticed_at is not None:
            yield Mark(kind="notice", epoch=attempt.epoch, at=attempt.noticed_at)
