"""The table of checks of a job queue, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from perdure.account.checks import account, compute_environments, images, job_definitions, launch_templates
from perdure.account.findings import Finding, Severity
from perdure.account.picture import QueuePicture

_ENVIRONMENTS = frozenset({"batch:DescribeComputeEnvironments"})
_TEMPLATES = _ENVIRONMENTS | {"ec2:DescribeLaunchTemplateVersions"}
_JOBS = frozenset({"batch:ListJobs", "batch:DescribeJobs", "batch:DescribeJobDefinitions"})
_ROLES = frozenset(
    {"iam:GetInstanceProfile", "iam:ListAttachedRolePolicies", "iam:ListRolePolicies", "iam:GetRolePolicy"}
)


@dataclass(frozen=True)
class Check:
    """`holds`: what is so when nothing is found. `rests_on`: the rights without which it sees nothing."""

    holds: str
    find: Callable[[QueuePicture], Iterable[Finding]]
    rests_on: frozenset[str] = frozenset()


CHECKS: dict[str, Check] = {
    "environment-kind": Check("jobs run where an agent can be", compute_environments.kind, _ENVIRONMENTS),
    "environment-state": Check("queue and environments take jobs", compute_environments.state, _ENVIRONMENTS),
    "allocation-strategy": Check(
        "Spot capacity is chosen well, and updates end no job", compute_environments.strategy, _ENVIRONMENTS
    ),
    "zones": Check("there is a second zone", compute_environments.zones, _ENVIRONMENTS | {"ec2:DescribeSubnets"}),
    "launch-template": Check("the launch template installs Perdure", launch_templates.installer, _TEMPLATES),
    "metadata": Check("instances hear notices", launch_templates.metadata, _TEMPLATES),
    "time-outs": Check("ECS waits for a restore", launch_templates.timeouts, _TEMPLATES),
    "checkpoint-place": Check("checkpoints outlive the instance", launch_templates.disks, _TEMPLATES),
    "image": Check("the image has what it takes", images.images, _TEMPLATES | {"ec2:DescribeImages"}),
    "processors": Check(
        "what is saved on one instance goes on on the others",
        images.processors,
        _ENVIRONMENTS | {"ec2:DescribeInstanceTypes"},
    ),
    "retries": Check("a reclaimed job is run again", job_definitions.retries, _JOBS),
    "job-kind": Check("the jobs can be saved whole", job_definitions.kinds, _JOBS),
    "roles": Check("the instances' role is small, and enough", account.roles, _ENVIRONMENTS | _ROLES),
    "quotas": Check(
        "the account has room for instances and volumes",
        account.quotas,
        _ENVIRONMENTS | {"servicequotas:GetServiceQuota"},
    ),
    "rights": Check("everything could be looked at", account.rights),
}
_ORDER = list(Severity)


def examine(picture: QueuePicture) -> dict[str, list[Finding]]:
    """What each check found, by its name, the worst first; an empty list is good news, unless `unseen` says more."""
    return {
        name: sorted(check.find(picture), key=lambda found: (_ORDER.index(found.severity), found.subject))
        for name, check in CHECKS.items()
    }


def unseen(picture: QueuePicture, name: str) -> list[str]:
    """The rights that were missing for this check: that it found nothing is then no news at all."""
    return sorted(CHECKS[name].rests_on & picture.refused.keys())
