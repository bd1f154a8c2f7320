"""Is a failed attempt tried again? `evaluateOnExit` as AWS Batch has it, written from AWS's words and from nothing of
the product's, so that the two can disagree in a test.

Source: AWS Batch user guide, "Automated job retries", and API reference, EvaluateOnExit: rules are tried in order; the
conditions of one rule are ANDed; a pattern is exact or ends in `*`, without regard to case; no rule matches: the job is
retried; attempts are 1 to 10 and at most 5 rules are taken. AWS's example ends in `onReason: *`, `EXIT` to catch every
other end, so a lone `*` matches a value that is absent too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from localcloud.errors import AwsError

MOST_ATTEMPTS = 10
MOST_RULES = 5
CONDITIONS = ("onExitCode", "onReason", "onStatusReason")


@dataclass(frozen=True)
class Ending:
    """How an attempt ended: the container's exit code (absent when its host was lost), its reason, the job's."""

    exit_code: int | None = None
    reason: str | None = None
    status_reason: str | None = None


@dataclass(frozen=True)
class Strategy:
    """`retryStrategy`: attempts in all, and `evaluateOnExit` rules as in the request."""

    attempts: int = 1
    rules: list[dict[str, str]] = field(default_factory=list)

    def retries(self, ending: Ending) -> bool:
        """Do the rules ask for another attempt, were one left?"""
        for rule in self.rules:
            if _rule_matches(rule, ending):
                return rule["action"].upper() == "RETRY"
        return True

    def describe(self) -> dict[str, Any]:
        """As DescribeJobs shows it."""
        return {"attempts": self.attempts, "evaluateOnExit": self.rules}


def parse_strategy(given: dict[str, Any] | None) -> Strategy:
    """Read a request's retryStrategy. AwsError ClientException when AWS would refuse it."""
    if not given:
        return Strategy()
    attempts = given.get("attempts", 1)
    if not isinstance(attempts, int) or not 1 <= attempts <= MOST_ATTEMPTS:
        raise AwsError("ClientException", f"retryStrategy.attempts must be between 1 and {MOST_ATTEMPTS}.")
    rules = given.get("evaluateOnExit") or []
    if len(rules) > MOST_RULES:
        raise AwsError("ClientException", f"evaluateOnExit takes at most {MOST_RULES} rules.")
    for rule in rules:
        if str(rule.get("action", "")).upper() not in {"RETRY", "EXIT"}:
            raise AwsError("ClientException", "evaluateOnExit.action must be RETRY or EXIT.")
        for pattern in (rule[condition] for condition in CONDITIONS if condition in rule):
            if not isinstance(pattern, str) or not pattern or "*" in pattern[:-1]:
                raise AwsError("ClientException", "An evaluateOnExit pattern may have `*` only at its end.")
    return Strategy(attempts, [dict(rule) for rule in rules])


def _rule_matches(rule: dict[str, str], ending: Ending) -> bool:
    values = (None if ending.exit_code is None else str(ending.exit_code), ending.reason, ending.status_reason)
    return all(
        _matches(rule[condition], value)
        for condition, value in zip(CONDITIONS, values, strict=True)
        if rule.get(condition)
    )


def _matches(pattern: str, value: str | None) -> bool:
    pattern, value = pattern.lower(), (value or "").lower()
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern
