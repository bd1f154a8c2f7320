"""Which jobs get a volume: rules as people write them, one a line.

A rule is one or more conditions with spaces between them, which must all hold: `queue=genomics-*`, `name=align*`,
`vcpus>=4`, `memory<=8192` (MiB). `*` stands for any characters. One rule that holds is enough; without rules every job
gets a volume.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from perdure.domain.values import Frozen

_TEXT = re.compile(r"(queue|name)=([A-Za-z0-9_*-]{1,128})")
_NUMBER = re.compile(r"(vcpus|memory)(>=|<=)(\d{1,9}(?:\.\d{1,3})?)")


class RequestedJob(Frozen):
    """What a job's submission says of it; None: Batch does not tell."""

    queue: str = ""
    name: str = ""
    vcpus: float | None = None
    memory_mib: int | None = None


def check_rule(rule: str) -> None:
    """ValueError says which condition cannot be read."""
    conditions = rule.split()
    if not conditions:
        raise ValueError("a rule has at least one condition, such as queue=genomics-* or memory>=8192")
    for condition in conditions:
        if not _TEXT.fullmatch(condition) and not _NUMBER.fullmatch(condition):
            raise ValueError(
                f"{condition[:60]!r} is no condition: queue=NAME, name=NAME (* for any characters), vcpus>=N, vcpus<=N,"
                " memory>=MIB or memory<=MIB, without spaces in it"
            )


def gets_volume(rules: Sequence[str], job: RequestedJob) -> bool:
    """By rules that `check_rule` has passed. A number that is not known holds no condition."""
    return not rules or any(all(_holds(condition, job) for condition in rule.split()) for rule in rules)


def _holds(condition: str, job: RequestedJob) -> bool:
    if text := _TEXT.fullmatch(condition):
        return fnmatchcase(job.queue if text[1] == "queue" else job.name, text[2])
    number = _NUMBER.fullmatch(condition)
    has = job.vcpus if number and number[1] == "vcpus" else job.memory_mib
    if number is None or has is None:
        return False
    return has >= float(number[3]) if number[2] == ">=" else has <= float(number[3])
