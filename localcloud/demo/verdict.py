"""Did every promise hold? Pure: what was seen of a job before each reclaim and at its end, judged against the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """How a node is taken away."""

    SAME_ZONE = "notice, same zone"
    OTHER_ZONE = "notice, other zone"
    NO_NOTICE = "no notice"

    @property
    def outage(self) -> str:
        """What Perdure calls it in its records."""
        return "no notice" if self is Kind.NO_NOTICE else "notice"


@dataclass(frozen=True)
class PlannedReclaim:
    """`after`: the share of its work that the job has done when its node is taken away, at least."""

    kind: Kind
    after: float


@dataclass(frozen=True)
class Sighting:
    """The job as it was right before a reclaim. `tokens`: what its processes had printed of what they hold in memory;
    `gone_at`: when the reclaim was over; `zone`: where the job was."""

    kind: Kind
    batch_status: str
    epoch: int
    zone: str
    tokens: frozenset[str]
    progress: float
    gone_at: datetime


@dataclass(frozen=True)
class CommittedCheckpoint:
    """A checkpoint that was once committed, as the API tells."""

    epoch: int
    number: int
    kind: str
    committed_at: datetime


@dataclass(frozen=True)
class OutageFact:
    """An outage as the API tells it; unknown values are None."""

    epoch: int
    kind: str
    seconds: float | None
    phases: dict[str, float]
    restored_from: int | None
    work_lost_seconds: float | None


@dataclass(frozen=True)
class Outcome:
    """Everything seen of one job. `differences`: a sentence for each output that is not that of the reference."""

    name: str
    job_id: str
    batch_status: str
    exit_code: int | None
    attempts: int
    protections: int
    zones: list[str]
    tokens: frozenset[str]
    sightings: list[Sighting]
    checkpoints: list[CommittedCheckpoint]
    outages: list[OutageFact]
    differences: list[str]


@dataclass(frozen=True)
class Verdict:
    """`problems`: a sentence for each promise that did not hold; none means ok."""

    outcome: Outcome
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Every promise held."""
        return not self.problems

    @property
    def work_lost_seconds(self) -> float | None:
        """Run time that had to be done again, over all reclaims; None when a part of it is unknown."""
        lost = [outage.work_lost_seconds for outage in self.outcome.outages]
        return None if None in lost else round(sum(seconds or 0.0 for seconds in lost), 3)

    def as_json(self) -> dict[str, Any]:
        """One entry of `jobs` in the demo's last line."""
        seen = self.outcome
        return {
            "name": seen.name,
            "id": seen.job_id,
            "attempts": seen.attempts,
            "protections": seen.protections,
            "zones": seen.zones,
            "output_identical": not seen.differences,
            "work_lost_seconds": self.work_lost_seconds,
            "outages": [
                {
                    "kind": outage.kind,
                    "seconds": outage.seconds,
                    "phases": outage.phases,
                    "restored_from": outage.restored_from,
                    "work_lost_seconds": outage.work_lost_seconds,
                }
                for outage in seen.outages
            ],
        }


def judge(plan: Sequence[PlannedReclaim], seen: Outcome) -> Verdict:
    """Hold what was seen against what was planned and promised."""
    problems = [*_ending(seen), *_reclaims(plan, seen), *_zones(plan, seen), *_process(seen)]
    for sighting in seen.sightings:
        problems += _restore(sighting, seen)
    return Verdict(seen, problems)


def _ending(seen: Outcome) -> list[str]:
    problems = list(seen.differences)
    if seen.batch_status != "SUCCEEDED" or seen.exit_code != 0:
        problems.append(f"the job ended {seen.batch_status} with exit code {seen.exit_code}")
    return problems


def _reclaims(plan: Sequence[PlannedReclaim], seen: Outcome) -> list[str]:
    """Each planned reclaim must have hit the job while it ran, and have been survived."""
    problems: list[str] = []
    hits = [sighting.kind for sighting in seen.sightings]
    if hits != [planned.kind for planned in plan]:
        problems.append(f"{len(plan)} reclaims were planned, {len(hits)} hit the job before it ended")
    for sighting in seen.sightings:
        if sighting.batch_status != "RUNNING" or sighting.progress >= 1:
            problems.append(f"a reclaim ({sighting.kind}) came while the job was {sighting.batch_status}")
    if seen.attempts != len(plan) + 1:
        problems.append(f"the job had {seen.attempts} attempts, not {len(plan) + 1}")
    if seen.protections != len(plan):
        problems.append(f"the job survived {seen.protections} reclaims, not {len(plan)}")
    return problems


def _zones(plan: Sequence[PlannedReclaim], seen: Outcome) -> list[str]:
    problems = []
    for planned, before, after in zip(plan, seen.zones, seen.zones[1:], strict=False):
        if (planned.kind is Kind.SAME_ZONE and before != after) or (
            planned.kind is Kind.OTHER_ZONE and before == after
        ):
            problems.append(f"a reclaim ({planned.kind}) took the job from {before} to {after}")
    return problems


def _process(seen: Outcome) -> list[str]:
    """One token over the whole life: the same process went on, every time."""
    blind = [sighting for sighting in seen.sightings if not sighting.tokens]
    tokens = seen.tokens.union(*(sighting.tokens for sighting in seen.sightings))
    if blind or not seen.tokens:
        return ["the job's process was not seen before a reclaim, or not at the end"]
    if len(tokens) > 1:
        return [f"the job was started anew: its memory held {len(tokens)} different tokens"]
    return []


def newest_in_time(sighting: Sighting, checkpoints: Sequence[CommittedCheckpoint]) -> CommittedCheckpoint | None:
    """The newest checkpoint that was committed before the reclaimed node was gone."""
    in_time = [one for one in checkpoints if one.epoch <= sighting.epoch and one.committed_at <= sighting.gone_at]
    return max(in_time, key=lambda one: one.number, default=None)


def _restore(sighting: Sighting, seen: Outcome) -> list[str]:
    """After each reclaim the job must have gone on from the newest checkpoint; after a notice from a final one."""
    outage = next((one for one in seen.outages if one.epoch == sighting.epoch), None)
    if outage is None or outage.kind != sighting.kind.outage:
        kind = "no outage" if outage is None else f"an outage with {outage.kind}"
        return [f"for a reclaim ({sighting.kind}) there is {kind} in Perdure's records"]
    newest = newest_in_time(sighting, seen.checkpoints)
    if newest is None:
        return [f"no checkpoint was committed before a reclaim ({sighting.kind})"]
    problems = []
    if sighting.kind is not Kind.NO_NOTICE and (newest.kind, newest.epoch) != ("final", sighting.epoch):
        problems.append(f"no final checkpoint was committed on a reclaim ({sighting.kind})")
    if outage.restored_from != newest.number:
        went_on = "started anew" if outage.restored_from is None else f"went on from {outage.restored_from}"
        problems.append(
            f"checkpoint {newest.number} was committed in time, but after the reclaim ({sighting.kind}) the job "
            f"{went_on}: {_seconds(outage.work_lost_seconds)} of work had to be done again"
        )
    if outage.work_lost_seconds is None:
        problems.append(f"what a reclaim ({sighting.kind}) cost in work is unknown")
    return problems


def _seconds(value: float | None) -> str:
    return "an unknown time" if value is None else f"{value:.1f} s"
