"""AWS Batch retry strategies as the product reads them, and the way of handing a job over that they allow.

Source of the rules: AWS Batch user guide, "Automated job retries": up to 5 rules, tried in order; the conditions of a
rule are ANDed; a pattern is exact or ends in `*`; matching ignores case for reasons; no match retries; attempts are
counted when the job reaches RUNNING. A lone `*` also matches an absent reason: AWS's own example ends in
`onReason: *, EXIT` as "everything else", and most failures carry no container reason (docs/aws-assumptions.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import Field

from perdure.domain.values import Frozen

ENDED_BY_US = 137
"""Exit code that ECS reports for a container whose init was SIGKILLed, as ours is at a hand-over."""


class RetryRule(Frozen):
    """One `evaluateOnExit` rule; absent conditions match anything."""

    action: str
    on_exit_code: str | None = None
    on_reason: str | None = None
    on_status_reason: str | None = None


class RetryStrategy(Frozen):
    """A job's retry strategy: `attempts` in all (1 to 10) and the rules in their order."""

    attempts: int = 1
    rules: list[RetryRule] = Field(default_factory=list)

    @classmethod
    def of_batch(cls, shown: Mapping[str, Any]) -> RetryStrategy:
        """AWS's `retryStrategy`, as DescribeJobs and DescribeJobDefinitions show it. Empty: a single attempt."""
        rules = [
            RetryRule(
                action=rule.get("action", ""),
                on_exit_code=rule.get("onExitCode"),
                on_reason=rule.get("onReason"),
                on_status_reason=rule.get("onStatusReason"),
            )
            for rule in shown.get("evaluateOnExit", [])
        ]
        return cls(attempts=shown.get("attempts") or 1, rules=rules)


class HandOver(StrEnum):
    """What the node does with a job after its committed final checkpoint (docs/architecture.md, "The hand-over")."""

    END_CONTAINER = "end container"
    """The rules retry exit code 137: end it, unmount, detach; Batch retries at once."""
    STOP_ECS = "stop ECS agent"
    """They only retry `Host EC2*`: stop the ECS agent, so that no exit is reported, then end the container, unmount,
    detach. Batch hears of the host's end alone, and the volume is free by then."""
    STAY_FROZEN = "stay frozen"
    """They would not, or nobody knows: flush and let the host die; Batch then sees `Host EC2*`."""
    KEEP_ONLY = "keep only"
    """No attempt is left: keep the checkpoint and say so loudly."""


ENDS = frozenset({HandOver.END_CONTAINER, HandOver.STOP_ECS})
"""Ways that end the container on the node and free its volume inside the notice."""
HOST_GONE = "Host EC2 (instance i-0123456789abcdef0) terminated."
"""What Batch says of a job whose instance went (docs/aws-assumptions.md)."""


def _matches(pattern: str | None, value: str | None) -> bool:
    if pattern is None or pattern == "*":
        return True
    if value is None:
        return False
    pattern, value = pattern.lower(), value.lower()
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern


def would_retry(
    strategy: RetryStrategy, *, exit_code: int | None, reason: str | None, status_reason: str | None
) -> tuple[bool, str]:
    """Would Batch run the job again after such an end, attempts permitting? Returns the verdict and the rule."""
    if not strategy.rules:
        return True, "no rules: every failure is retried"
    code = None if exit_code is None else str(exit_code)
    for place, rule in enumerate(strategy.rules, start=1):
        if (
            _matches(rule.on_exit_code, code)
            and _matches(rule.on_reason, reason)
            and _matches(rule.on_status_reason, status_reason)
        ):
            pattern = rule.on_status_reason or rule.on_reason or rule.on_exit_code
            return rule.action.upper() == "RETRY", f"rule {place}, `{pattern}`"
    return True, "no rule matches: retried"


def choose_hand_over(strategy: RetryStrategy, attempts_made: int, *, can_stop_ecs: bool = False) -> HandOver:
    """The way for a job that has used `attempts_made` attempts, this one included. `can_stop_ecs`: the node said so.

    An attempt that we end must never be the last one: Cromwell reads a last 137 as out of memory.
    """
    if attempts_made >= strategy.attempts:
        return HandOver.KEEP_ONLY
    ended, _ = would_retry(
        strategy, exit_code=ENDED_BY_US, reason=None, status_reason="Essential container in task exited"
    )
    if ended:
        return HandOver.END_CONTAINER
    lost, _ = would_retry(strategy, exit_code=None, reason=None, status_reason=HOST_GONE)
    return HandOver.STOP_ECS if lost and can_stop_ecs else HandOver.STAY_FROZEN
