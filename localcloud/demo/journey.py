"""One job's way through its reclaims, on a thread of its own: submit, wait for the moment, take its node, watch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from localcloud.demo.jobs import DemoJob, gate
from localcloud.demo.references import Evidence, tokens
from localcloud.demo.stack_user import Look, StackUser, Stopped
from localcloud.demo.verdict import Kind, Outcome, PlannedReclaim, Sighting
from perdure.domain.errors import StackError

LOOK_SECONDS = 0.7
STAGE_LIMIT_SECONDS = 420.0
"""The longest that a job may take from one stage of its way to the next."""


class Journey:
    """`turn` is shared by all journeys: one reclaim at a time, because its zone limits everyone's capacity.

    `show` gets every look and `tell` every line, both with the job's name.
    """

    def __init__(
        self,
        job: DemoJob,
        user: StackUser,
        zones: list[str],
        turn: threading.Lock,
        stop: threading.Event,
        show: Callable[[str, Look], None],
        tell: Callable[[str, str], None],
    ) -> None:
        self.job = job
        self._user, self._zones, self._turn, self._stop = user, zones, turn, stop
        self._show, self._tell = show, tell
        self._job_id = ""
        self._sightings: list[Sighting] = []

    def run(self, inputs: Path, folder: Path) -> tuple[Outcome, Evidence]:
        """The whole way; what was seen, still without the comparison of outputs, and what the job left in `folder`.

        Raises StackError when the stack fails or a stage takes too long, Stopped when the demo is ended.
        """
        self._job_id = self._user.submit(self.job, inputs)
        self._tell(self.job.name, f"submitted as {self._job_id}")
        for leg, planned in enumerate(self.job.plan, start=1):
            if not self._reclaim_when_ready(planned):
                self._tell(self.job.name, f"ended before its reclaim ({planned.kind}) could come")
                break
            (inputs / gate(self.job.name, leg)).touch()
        (inputs / gate(self.job.name, len(self.job.plan) + 1)).touch()
        self._until(lambda seen: seen.finished, "its end")
        found = collect(self._user, self.job, self._job_id, self._sightings, folder)
        self._show(self.job.name, self._user.look(self._job_id))  # Perdure has closed its books by now
        return found

    def _reclaim_when_ready(self, planned: PlannedReclaim) -> bool:
        """False when the job was finished first."""
        self._until(lambda seen: seen.finished or self._ready(planned, seen), f"the moment for {planned.kind}")
        with self._turn:
            # It ran on while this thread waited for its turn.
            seen = self._until(lambda seen: seen.finished or self._ready(planned, seen), "its turn")
            if seen.finished:
                return False
            self._reclaim(planned.kind, seen)
            self._until(lambda now: now.finished or (now.running and now.epoch > seen.epoch), "its return")
        return True

    def _ready(self, planned: PlannedReclaim, seen: Look) -> bool:
        """It runs, has done its share, has gone on since the last reclaim, and a checkpoint is there to go back to."""
        before = self._sightings[-1].progress if self._sightings else 0.0
        protected = planned.kind is not Kind.NO_NOTICE or any(epoch == seen.epoch for epoch, _ in seen.offered)
        return seen.running and protected and bool(seen.tokens) and before < seen.progress >= planned.after

    def _reclaim(self, kind: Kind, seen: Look) -> None:
        # What counts as proof is what a user would see, at the last moment.
        stdout, _ = self._user.logs(self._job_id)
        here = seen.zone or ""
        to_zone = {
            Kind.SAME_ZONE: here,
            Kind.OTHER_ZONE: next(zone for zone in self._zones if zone != here),
            Kind.NO_NOTICE: None,
        }[kind]
        goal = f" → {to_zone}" if to_zone else ""
        self._tell(self.job.name, f"at {seen.progress:.0%}: reclaim of {seen.node} in {here} ({kind}){goal}")
        self._user.reclaim(
            self._job_id, to_zone, kind is not Kind.NO_NOTICE, lambda line: self._tell(self.job.name, line)
        )
        self._sightings.append(
            Sighting(kind, seen.batch_status, seen.epoch, here, tokens(stdout), seen.progress, datetime.now(UTC))
        )

    def _until(self, condition: Callable[[Look], bool], what: str) -> Look:
        deadline = time.monotonic() + STAGE_LIMIT_SECONDS
        while not self._stop.is_set():
            seen = self._user.look(self._job_id)
            self._show(self.job.name, seen)
            if condition(seen):
                return seen
            if time.monotonic() > deadline:
                raise StackError(
                    f"{self.job.name} did not come to {what} within {STAGE_LIMIT_SECONDS:g} s "
                    f"(Batch: {seen.batch_status}, Perdure: {seen.state or 'unknown'})"
                )
            self._stop.wait(LOOK_SECONDS)
        raise Stopped("the demo was stopped")


def collect(
    user: StackUser, job: DemoJob, job_id: str, sightings: list[Sighting], folder: Path
) -> tuple[Outcome, Evidence]:
    """What is known of a finished job, its outputs not yet compared, and what it left, fetched into `folder`."""
    summary = user.summary(job_id)
    evidence = user.evidence(job, job_id, folder)
    outcome = Outcome(
        name=job.name,
        job_id=job_id,
        batch_status=summary.get("status") or "UNKNOWN",
        exit_code=summary.get("exit_code"),
        attempts=summary.get("attempts") or 0,
        protections=summary.get("protections") or 0,
        zones=summary.get("zones") or [],
        tokens=tokens(evidence.stdout),
        sightings=sightings,
        checkpoints=user.checkpoints(job_id),
        outages=user.outages(job_id),
        differences=[],
    )
    return outcome, evidence
