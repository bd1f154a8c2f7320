"""What a rehearsal means for a job: shown, counted, told. Pure."""

from __future__ import annotations

import re

from perdure.domain.checkpoints import Rehearsal, RehearsalVerdict
from perdure.domain.values import format_duration
from workflows.job_state import JobProgress


def hear_rehearsal(progress: JobProgress, rehearsal: Rehearsal) -> None:
    """A checkpoint was restored beside the running job; the ladder goes by what real restores say all the same."""
    before = progress.job.rehearsal
    what = f"Checkpoint {rehearsal.number}"
    if rehearsal.verdict is RehearsalVerdict.NOT_TRIED:
        if before is None or before.epoch != rehearsal.epoch:  # else what is known of this container stays true
            progress.show(rehearsal=rehearsal)
        said, level = f"{what} was not rehearsed: {rehearsal.reason.rstrip('.')}.", "info"
    else:
        failed = rehearsal.verdict is RehearsalVerdict.FAILED
        progress.show(
            rehearsal=rehearsal,
            rehearsals=progress.job.rehearsals + 1,
            rehearsal_failures=progress.job.rehearsal_failures + failed,
        )
        took = format_duration(max(1, round(rehearsal.seconds)))
        good = f"{what} was restored beside the running job, looked at and thrown away, in {took}: it comes back."
        bad = f"{what} did not come back in a rehearsal, and is not safe: {rehearsal.reason}"
        said, level = (bad, "error") if failed else (good, "info")
    if before is None or level != "error" or not _as_before(rehearsal, before):
        progress.tell(rehearsal.at, "rehearsal", said, level, epoch=rehearsal.epoch)


def _as_before(one: Rehearsal, other: Rehearsal) -> bool:
    """The same failure again: it is told once, though its numbers (sizes, addresses) may differ."""
    first, second = (re.sub(r"\b(0x)?[0-9a-f]+\b", "", rehearsal.reason) for rehearsal in (one, other))
    return (one.verdict, one.epoch, first) == (other.verdict, other.epoch, second)
