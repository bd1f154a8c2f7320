"""Everything that AWS says about one job queue, read once, so that checks are functions of it and ask nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from perdure.account.asking import Aws
from perdure.account.environments import Environment, Shown, read_environment
from perdure.domain.errors import ConfigurationInvalid

_LOOK_BACK = timedelta(days=7)
_DESCRIBED_AT_ONCE = 100
_LOOKED_AT_JOBS = 500
_LOOKED_AT_NAMES = 100
QUOTAS = {
    "L-34B43A08": ("ec2", "vCPUs of Spot instances of the standard families (A, C, D, H, I, M, R, T, Z)"),
    "L-3819A6DF": ("ec2", "vCPUs of Spot instances of the G and VT families"),
    "L-7A658B76": ("ebs", "TiB of gp3 volumes in the region"),
    "L-309BACF6": ("ebs", "EBS snapshots in the region"),
}
"""Codes of the Service Quotas console (docs/aws-assumptions.md)."""


@dataclass(frozen=True)
class Definition:
    """A job definition in use, and the retry strategies with which jobs of the last days really ran from it. `newest`:
    the newest active revision of its name, 0 for none: submissions that name no revision get that one."""

    shown: Shown
    strategies: tuple[Shown, ...] = ()
    newest: int = 0

    @property
    def is_newest(self) -> bool:
        """Is it what a submission by name gets?"""
        return self.newest == int(self.shown["revision"])

    @property
    def name(self) -> str:
        """NAME:REVISION."""
        return f"{self.shown['jobDefinitionName']}:{self.shown['revision']}"

    @property
    def containers(self) -> list[Shown]:
        """Container properties of every container of one attempt."""
        if "containerProperties" in self.shown:
            return [self.shown["containerProperties"]]
        tasks = (self.shown.get("ecsProperties") or {}).get("taskProperties", [])
        nodes = (self.shown.get("nodeProperties") or {}).get("nodeRangeProperties", [])
        return [one for task in tasks for one in task.get("containers", [])] + [
            node["container"] for node in nodes if "container" in node
        ]


@dataclass(frozen=True)
class Role:
    """An instance role: what its policies allow, as far as they can be read. `statements`: of inline and attached
    policies."""

    name: str
    policies: tuple[str, ...] = ()
    statements: tuple[Shown, ...] = ()


@dataclass(frozen=True)
class QueuePicture:
    """One job queue. `quotas`: by code, the value in force. `refused`: rights that were missing, with AWS's words."""

    queue: Shown
    environments: tuple[Environment, ...] = ()
    definitions: tuple[Definition, ...] = ()
    roles: tuple[Role, ...] = ()
    quotas: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def read_queue(aws: Aws, name: str) -> QueuePicture:
    """Look at the queue. Raises ConfigurationInvalid when there is none of that name, CloudUnavailable."""
    batch = aws.client("batch")
    queues = aws.ask(
        "batch:DescribeJobQueues", lambda: batch.describe_job_queues(jobQueues=[name])["jobQueues"], list[Shown]()
    )
    if not queues:
        said = aws.refused.get("batch:DescribeJobQueues", f"there is none of that name in {aws.region}")
        raise ConfigurationInvalid(f"the job queue {name!r} cannot be looked at: {said}")
    order = sorted(queues[0].get("computeEnvironmentOrder", []), key=lambda one: int(one["order"]))
    wanted = [one["computeEnvironment"] for one in order]
    found = aws.ask(
        "batch:DescribeComputeEnvironments",
        lambda: (
            batch.describe_compute_environments(computeEnvironments=wanted)["computeEnvironments"] if wanted else []
        ),
        list[Shown](),
    )
    roles = {str((one.get("computeResources") or {}).get("instanceRole", "")) for one in found} - {""}
    return QueuePicture(
        queue=queues[0],
        environments=tuple(read_environment(aws, one) for one in found),
        definitions=tuple(_definitions(aws, name)),
        roles=tuple(_role(aws, one) for one in sorted(roles)),
        quotas=_quotas(aws),
        refused=aws.refused,
    )


def _definitions(aws: Aws, queue: str) -> list[Definition]:
    """Those that jobs of the queue used in the last days; when there are no such jobs, the newest active one of each
    name."""
    after = str(int((datetime.now(UTC) - _LOOK_BACK).timestamp() * 1000))
    listed = aws.ask(
        "batch:ListJobs",
        lambda: aws.pages(
            "batch",
            "list_jobs",
            "jobSummaryList",
            jobQueue=queue,
            filters=[{"name": "AFTER_CREATED_AT", "values": [after]}],
        ),
        list[Shown](),
    )
    jobs = describe_jobs(aws, [one["jobId"] for one in listed[:_LOOKED_AT_JOBS]])
    strategies: dict[str, list[Shown]] = {}
    for job in jobs:
        known = strategies.setdefault(str(job["jobDefinition"]), [])
        strategy = job.get("retryStrategy") or {"attempts": 1}
        if strategy not in known:
            known.append(strategy)
    batch = aws.client("batch")
    used = sorted(strategies)

    def question() -> list[Shown]:
        if not used:
            return aws.pages("batch", "describe_job_definitions", "jobDefinitions", status="ACTIVE")
        return [
            one
            for start in range(0, len(used), _DESCRIBED_AT_ONCE)
            for one in batch.describe_job_definitions(jobDefinitions=used[start : start + _DESCRIBED_AT_ONCE])[
                "jobDefinitions"
            ]
        ]

    found = aws.ask("batch:DescribeJobDefinitions", question, list[Shown]())
    newest = _newest(found if not used else _active(aws, {str(one["jobDefinitionName"]) for one in found}))
    definitions = [
        Definition(one, tuple(strategies.get(one["jobDefinitionArn"], ())), newest.get(one["jobDefinitionName"], 0))
        for one in found
    ]
    return [one for one in definitions if used or one.is_newest]


def _active(aws: Aws, names: set[str]) -> list[Shown]:
    """Active revisions of these definitions."""
    return [
        one
        for name in sorted(names)[:_LOOKED_AT_NAMES]
        for one in aws.ask(
            "batch:DescribeJobDefinitions",
            lambda name=name: aws.pages(  # type: ignore[misc]
                "batch", "describe_job_definitions", "jobDefinitions", jobDefinitionName=name, status="ACTIVE"
            ),
            list[Shown](),
        )
    ]


def _newest(definitions: list[Shown]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in definitions:
        name, revision = str(one["jobDefinitionName"]), int(one["revision"])
        found[name] = max(revision, found.get(name, 0))
    return found


def describe_jobs(aws: Aws, job_ids: list[str]) -> list[Shown]:
    """DescribeJobs, a hundred at a time; those that Batch has forgotten are left out."""
    batch = aws.client("batch")
    return aws.ask(
        "batch:DescribeJobs",
        lambda: [
            one
            for start in range(0, len(job_ids), _DESCRIBED_AT_ONCE)
            for one in batch.describe_jobs(jobs=job_ids[start : start + _DESCRIBED_AT_ONCE])["jobs"]
        ],
        list[Shown](),
    )


def _role(aws: Aws, named: str) -> Role:
    """`named`: the instance profile's name or address."""
    iam, profile = aws.client("iam"), named.rpartition("/")[2]
    roles = aws.ask(
        "iam:GetInstanceProfile",
        lambda: iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"],
        list[Shown](),
    )
    if not roles:
        return Role(profile)
    name = str(roles[0]["RoleName"])
    attached = aws.ask(
        "iam:ListAttachedRolePolicies",
        lambda: aws.pages("iam", "list_attached_role_policies", "AttachedPolicies", RoleName=name),
        list[Shown](),
    )
    statements: list[Shown] = []
    for one in aws.ask(
        "iam:ListRolePolicies", lambda: iam.list_role_policies(RoleName=name)["PolicyNames"], list[str]()
    ):
        document = aws.ask(
            "iam:GetRolePolicy",
            lambda one=one: iam.get_role_policy(RoleName=name, PolicyName=one)["PolicyDocument"],  # type: ignore[misc]
            dict[str, Any](),
        )
        found = document.get("Statement", [])
        statements += found if isinstance(found, list) else [found]
    return Role(name, tuple(str(one["PolicyName"]) for one in attached), tuple(statements))


def _quotas(aws: Aws) -> dict[str, float]:
    client, found = aws.client("service-quotas"), {}
    for code, (service, _) in QUOTAS.items():
        value = aws.ask(
            "servicequotas:GetServiceQuota",
            lambda service=service, code=code: client.get_service_quota(ServiceCode=service, QuotaCode=code)["Quota"][  # type: ignore[misc]
                "Value"
            ],
            None,
        )
        if value is not None:
            found[code] = float(value)
    return found
