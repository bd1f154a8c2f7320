"""What each outage cost and what protection saved in it: the honest figure, and the naive one beside it. Pure.

For an outage that took the job from instance A to instance B (times UTC, our part of the instances by vCPUs):

    ran        frozen (or died) - started, on A
    lost       run time after the checkpoint that was restored: it had to be done again
    preserved  ran - lost. Negative when the job had to go back behind the point it started from on A: what an earlier
               protection had saved is taken back. Over a job's outages this adds up to the work that a job that always
               starts anew would have lost
    overhead   freeze + dump (A), detach, pull (B booting and pulling the image), attach + restore (B)
    saved      preserved - overhead; in money: worth(preserved on A) - paid(freeze + dump on A)
               - paid(pull + accepted … started on B)
    naive      the whole run time on A, nothing subtracted, one job per instance (the reference product's definition)

Waiting for Batch to find another instance is no overhead: any retry waits for that. Of that wait only the time in which
B existed already is ours, and only if B was launched for this retry; if B was up before, how long the pull took is not
known, and it is not counted (the entry says so). Work is worth its price whether AWS billed it or not, because doing it
again would be billed; overhead costs only what is billed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

from perdure.domain.figures import Figures, LedgerEntry
from perdure.domain.jobs import Job, Outage
from perdure.domain.outages import CHECK_STEP
from perdure.domain.prices import milliseconds
from perdure.domain.stays import Stay, of_vcpus

_FORMULA = (
    "preserved (ran - lost) - overhead (freeze + dump + detach + pull + attach + restore), at each minute's price"
)


def protection_entries(job: Job, stays: list[Stay], until: datetime) -> Iterator[LedgerEntry]:
    """One line per outage that is over by `until` and whose length is known; protections are counted in it."""
    for outage in job.outages:
        ended_at = outage.ended_at
        if outage.seconds is None or ended_at is None or ended_at > until:
            continue
        before = next((stay for stay in stays if stay.attempt.epoch == outage.epoch and stay.run_start), None)
        later = [stay for stay in stays if stay.attempt.epoch > outage.epoch and stay.run_start]
        if before is not None and later:
            yield _protection(job, outage, ended_at, before, later[0])


@dataclass(frozen=True)
class _Interruption:
    """What an outage took beside waiting for Batch, in milliseconds."""

    frozen: int
    dumped: int
    detached: int
    pull: int | None
    """None: not known."""
    attached: int
    restored: int

    @classmethod
    def of(cls, outage: Outage, after: Stay) -> _Interruption:
        frozen, dumped, detached, attached = (
            _ms(outage.phases.get(name, 0.0)) for name in ("frozen", "dumped", "detached", "attached")
        )
        restored = _ms(outage.phases.get("restored", outage.phases.get("started clean", 0.0)))
        restored += _ms(outage.phases.get(CHECK_STEP, 0.0))
        return cls(frozen, dumped, detached, _pull_ms(outage, after), attached, restored)

    @property
    def overhead(self) -> int:
        return self.frozen + self.dumped + self.detached + (self.pull or 0) + self.attached + self.restored

    def detail(self) -> dict[str, Any]:
        return {
            "frozen_seconds": self.frozen / 1000,
            "dumped_seconds": self.dumped / 1000,
            "detached_seconds": self.detached / 1000,
            "pull_seconds": None if self.pull is None else self.pull / 1000,
            "pull": "not known: the instance was up already"
            if self.pull is None
            else "from its launch to the container",
            "attached_seconds": self.attached / 1000,
            "restored_seconds": self.restored / 1000,
            "overhead_seconds": self.overhead / 1000,
        }


@dataclass(frozen=True)
class _Money:
    """Of an outage, in micro-dollars; our part of the instances."""

    preserved: int
    lost: int
    overhead: int
    redone_on_demand: int
    estimated: bool


def _protection(job: Job, outage: Outage, ended_at: datetime, before: Stay, after: Stay) -> LedgerEntry:
    assert before.run_start is not None
    lost = _ms(outage.work_lost_seconds or 0.0)
    ran = milliseconds(before.run_start, outage.started_at)
    took = _Interruption.of(outage, after)
    money = _money(before, after, before.run_start, outage.started_at, ended_at, took, lost)
    saved = ran - lost - took.overhead
    figures = Figures(
        saved_ms=saved,
        saved_cpu_ms=_of_vcpus(job.vcpus, saved),
        saved_micros=money.preserved - money.overhead,
        lost_ms=lost,
        lost_micros=money.lost,
        redone_on_demand_micros=money.redone_on_demand,
        volume_attaches=1 if "attached" in outage.phases else 0,
        volume_attach_ms=took.attached,
    )
    naive_ms = milliseconds(before.batch_start, before.batch_end)
    naive_micros = before.price.cost(before.batch_start, before.batch_end).micros
    if outage.restored_from is not None and before.attempt.instance_id != after.attempt.instance_id:
        figures += Figures(
            protections=1,
            naive_saved_ms=naive_ms,
            naive_saved_cpu_ms=of_vcpus(job.vcpus, before.batch_start, before.batch_end),
            naive_saved_micros=naive_micros,
        )
    return LedgerEntry(
        job_id=job.job_id,
        key=f"protection/{outage.epoch}",
        kind="protection",
        at=ended_at,
        figures=figures,
        # Work lost that reaches back before A cannot be priced by the minute: it is priced as if A had been there.
        estimated=money.estimated or lost > ran,
        detail={
            "kind": outage.kind,
            "from_instance": before.attempt.instance_id,
            "to_instance": after.attempt.instance_id,
            "restored_from": outage.restored_from,
            "ran_seconds": ran / 1000,
            "lost_seconds": lost / 1000,
            "preserved_seconds": (ran - lost) / 1000,
            **took.detail(),
            "preserved_micros": money.preserved,
            "overhead_micros": money.overhead,
            "from_usd_per_hour": before.detail(outage.started_at)["usd_per_hour"],
            "from_our_part": str(before.share),
            "to_usd_per_hour": after.detail(ended_at)["usd_per_hour"],
            "to_our_part": str(after.share),
            "naive_seconds": naive_ms / 1000,
            "naive_micros": naive_micros,
            "formula": _FORMULA,
        },
    )


def _money(
    before: Stay, after: Stay, begun: datetime, death: datetime, ended_at: datetime, took: _Interruption, lost: int
) -> _Money:
    """[begun, death] on A was work, of which [kept, death] was lost; then [death, let_go] on A and [taken, ended_at] on
    B was overhead."""
    kept = death - timedelta(milliseconds=lost)
    let_go = death + timedelta(milliseconds=took.frozen + took.dumped)
    taken = after.start - timedelta(milliseconds=took.pull or 0)
    lost_micros = before.worth(kept, death).micros
    redone = (
        before.on_demand.cost(kept, death).micros
        + before.on_demand.cost(death, let_go).micros
        + after.on_demand.cost(after.start, ended_at).micros
    )
    return _Money(
        preserved=before.worth(begun, death).micros - lost_micros,
        lost=lost_micros,
        overhead=before.paid(death, let_go).micros + after.paid(taken, ended_at).micros,
        redone_on_demand=redone,
        estimated=before.estimated(min(begun, kept), death) or after.estimated(taken, ended_at),
    )


def _pull_ms(outage: Outage, after: Stay) -> int | None:
    """From the new instance's launch to the container, if it was launched in this outage: boot and image pull. None:
    not known."""
    launched = after.node.launched_at
    if launched is None or launched < outage.started_at or launched > after.start:
        return None
    return min(milliseconds(launched, after.start), _ms(outage.phases.get("waited", 0.0)))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _of_vcpus(vcpus: float | None, milliseconds_of_one: int) -> int:
    """vCPU milliseconds, rounded down; of a negative time, negative ones."""
    exact = Fraction(str(vcpus or 0))
    return milliseconds_of_one * exact.numerator // exact.denominator
