"""The table of checks of a job queue, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from perdure.account.checks import account, compute_environments, images, job_definitions, launch_templates
from perdure.account.findings import Finding, Severity
from perdure.account.picture import QueuePicture

Check = Callable[[QueuePicture], Iterable[Finding]]
CHECKS: dict[str, tuple[str, Check]] = {
    "environment-kind": ("jobs run where an agent can be", compute_environments.kind),
    "environment-state": ("queue and environments take jobs", compute_environments.state),
    "allocation-strategy": ("Spot capacity is chosen well, and updates end no job", compute_environments.strategy),
    "zones": ("there is a second zone", compute_environments.zones),
    "launch-template": ("the launch template installs Perdure", launch_templates.installer),
    "metadata": ("instances hear notices", launch_templates.metadata),
    "time-outs": ("ECS waits for a restore", launch_templates.timeouts),
    "checkpoint-place": ("checkpoints outlive the instance", launch_templates.disks),
    "image": ("the image has what it takes", images.images),
    "processors": ("what is saved on one instance goes on on the others", images.processors),
    "retries": ("a reclaimed job is run again", job_definitions.retries),
    "job-kind": ("the jobs can be saved whole", job_definitions.kinds),
    "roles": ("the instances' role is small, and enough", account.roles),
    "quotas": ("the account has room for instances and volumes", account.quotas),
    "rights": ("everything could be looked at", account.rights),
}
"""By name: what holds when nothing is found, and the check."""
_ORDER = list(Severity)


def examine(picture: QueuePicture) -> dict[str, list[Finding]]:
    """What each check found, by its name, the worst first; an empty list is good news."""
    return {
        name: sorted(check(picture), key=lambda found: (_ORDER.index(found.severity), found.subject))
        for name, (_, check) in CHECKS.items()
    }
