"""Do the jobs' definitions let a reclaimed job go on, and can Perdure save what they define?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from perdure.account.findings import Call, Finding, Severity
from perdure.account.picture import Definition, QueuePicture
from perdure.domain.retries import (
    ENDED_BY_US,
    HOST_GONE,
    HandOver,
    RetryStrategy,
    choose_hand_over,
    would_retry,
)

ADVISED_ATTEMPTS = 10
"""As many as Batch allows (API reference, RetryStrategy): each reclaim costs one."""
ADVISED: dict[str, Any] = {
    "attempts": ADVISED_ATTEMPTS,
    "evaluateOnExit": [
        {"onReason": "OutOfMemory*", "action": "EXIT"},
        {"onStatusReason": "Host EC2*", "action": "RETRY"},
        {"onExitCode": str(ENDED_BY_US), "action": "RETRY"},
        {"onReason": "*", "action": "EXIT"},
    ],
}
"""Reclaims and containers that we ended are tried again, nothing else. Out of memory is 137 too, so it comes first."""
_COPIED = (
    *("jobDefinitionName", "type", "parameters", "schedulingPriority", "containerProperties", "nodeProperties"),
    *("propagateTags", "timeout", "tags", "platformCapabilities", "ecsProperties", "consumableResourceProperties"),
)
"""What RegisterJobDefinition takes of what DescribeJobDefinitions shows."""
_DOCKER = ("/var/run/docker.sock", "/run/docker.sock")


def patch(definition: Definition) -> Call:
    """The same definition as a new revision, with the advised strategy."""
    shown = definition.shown
    arguments = {name: shown[name] for name in _COPIED if shown.get(name) not in (None, [], {})}
    return Call("batch", "register-job-definition", {**arguments, "retryStrategy": ADVISED})


def judge(strategy: RetryStrategy) -> tuple[Severity, str, str] | None:
    """(severity, what, why) of the worst thing about a strategy; None: nothing."""
    if strategy.attempts < 2:
        return (
            Severity.ERROR,
            "makes one attempt",
            "A reclaimed job is not run again, so there is nothing to restore it into.",
        )
    retried, rule = would_retry(strategy, exit_code=None, reason=None, status_reason=HOST_GONE)
    if not retried:
        return Severity.ERROR, f"does not retry a lost host ({rule})", "A reclaim ends the job for good."
    if strategy.attempts < ADVISED_ATTEMPTS:
        why = (
            f"Each reclaim costs an attempt; number {strategy.attempts} ends the job. Batch allows {ADVISED_ATTEMPTS}."
        )
        return Severity.WARNING, f"makes {strategy.attempts} attempts", why
    if choose_hand_over(strategy, 1) is not HandOver.END_CONTAINER:
        why = (
            "The job then waits until AWS has ended its instance, some minutes, because a container that Perdure ended "
            "would not be retried."
        )
        return Severity.NOTE, f"does not retry exit code {ENDED_BY_US}", why
    return None


def retries(picture: QueuePicture) -> Iterator[Finding]:
    """Attempts and rules, of definitions and of what jobs were really submitted with."""
    for one in picture.definitions:
        if one.shown.get("type") != "container":
            continue
        own = RetryStrategy.of_batch(one.shown.get("retryStrategy") or {})
        trouble = judge(own)
        others = [other for shown in one.strategies if (other := RetryStrategy.of_batch(shown)) != own]
        worse = [found for strategy in others if (found := judge(strategy)) is not None]
        if trouble is not None and (not one.strategies or len(others) < len(one.strategies)):
            severity, what, why = trouble
            call = patch(one)
            # A revision made of an older one would take the place of the newest, with all that was changed since.
            mend = call.command() if one.is_newest else _use_newest(one)
            safe = call if one.is_newest else None
            yield Finding(severity, "retries", one.name, f"Its retry strategy {what}.", why, mend, safe)
        for severity, what, why in worse:
            mend = (
                "the client's own setting of attempts and rules: what SubmitJob sends wins over the definition "
                "(Nextflow: aws.batch.maxSpotAttempts = 10; others: send none)"
            )
            yield Finding(severity, "retries", one.name, f"Jobs are submitted with a strategy that {what}.", why, mend)


def _use_newest(one: Definition) -> str:
    strategy = json.dumps(ADVISED)
    if not one.newest:
        return f"it is no longer active; give its successor, or each submission, the strategy {strategy}"
    return f"submit with revision {one.newest}, the newest, or give each submission the strategy {strategy}"


def kinds(picture: QueuePicture) -> Iterator[Finding]:
    """What cannot be saved whole."""
    for one in picture.definitions:
        if one.shown.get("type") == "multinode" or len(one.containers) > 1:
            what = "A job of it has several containers."
            why = "They would have to be frozen at one instant; such jobs run unprotected, with an event."
            yield Finding(Severity.ERROR, "job-kind", one.name, what, why, "nothing yet")
        elif one.shown.get("eksProperties") or one.shown.get("platformCapabilities") == ["FARGATE"]:
            what, why = "It is for EKS or Fargate.", "Its jobs do not run where an agent can be."
            yield Finding(Severity.ERROR, "job-kind", one.name, what, why, "a definition for EC2")
        for properties in one.containers:
            yield from _contents(one, properties)


def _contents(one: Definition, properties: dict[str, Any]) -> Iterator[Finding]:
    sources = {str((volume.get("host") or {}).get("sourcePath", "")) for volume in properties.get("volumes", [])}
    if sources & set(_DOCKER):
        what, why = "It mounts Docker's socket.", "What a job starts beside itself is not saved with it."
        yield Finding(Severity.ERROR, "job-kind", one.name, what, why, "take the mount out of the definition")
    if any(each.get("type") == "GPU" for each in properties.get("resourceRequirements", [])):
        what, why = "It asks for a GPU.", "Freezing jobs on GPUs is off by default and nobody has tried it."
        mend = "/etc/perdure/agent.env: PERDURE_GPU=true, if you want to try"
        yield Finding(Severity.WARNING, "job-kind", one.name, what, why, mend)
