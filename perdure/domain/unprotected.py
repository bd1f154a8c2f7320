"""Why jobs run unprotected: the words that a job's own reason shares with those of other jobs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from perdure.domain.values import Frozen

_BEGINNING = re.compile(r"^The container (on \S+ )?runs unprotected: ")
_OWN = (
    (re.compile(r"\bi-[0-9a-f]{6,}\b"), "an instance"),
    (re.compile(r"\bvol-[0-9a-f]{6,}\b"), "its volume"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b[0-9a-f]{12,64}\b"), "…"),
    (re.compile(r"\b\d+\b(?! GiB| vCPU)"), "N"),
)
"""What differs from job to job: ids and numbers."""
NO_AGENT = "no agent has told of it (there is none on its instance, or it does not reach Temporal)"
"""Of a job that runs, or has run, as far as Batch says."""
LONGEST = 200
EXAMPLES = 5


class UnprotectedCount(Frozen):
    """Jobs with one reason. `running`: those of them that are not finished. `job_ids`: at most EXAMPLES, newest first,
    those that run before the others."""

    reason: str
    jobs: int
    running: int
    job_ids: list[str]


def own_reason(reason: str) -> str:
    """The reason alone, to stand in a sentence that says of which job."""
    return _BEGINNING.sub("", reason.strip()).rstrip(".")


def shared_reason(reason: str) -> str:
    """The reason without what only this job has: jobs without protection for the same cause get the same words."""
    text = own_reason(reason)
    for own, words in _OWN:
        text = own.sub(words, text)
    return text[:LONGEST] or "no reason was given"


def count_reasons(jobs: Iterable[tuple[str, str, bool]]) -> list[UnprotectedCount]:
    """Of (job id, its reason, does it run?), newest first: the commonest reason first."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for job_id, reason, runs in jobs:
        found.setdefault(shared_reason(reason), []).append((job_id, runs))
    counts = [
        UnprotectedCount(
            reason=reason,
            jobs=len(those),
            running=sum(runs for _, runs in those),
            job_ids=[job_id for job_id, _ in sorted(those, key=lambda one: not one[1])][:EXAMPLES],
        )
        for reason, those in found.items()
    ]
    return sorted(counts, key=lambda one: (-one.jobs, one.reason))
