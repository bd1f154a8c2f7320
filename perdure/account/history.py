"""What Batch still knows of its last days: jobs, their attempts, what their instances cost. Read-only."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from perdure.account.asking import Aws
from perdure.account.environments import Shown
from perdure.account.instances import INSTANCE, instances, likely_pairs, smallest_of_each_family, spot_points
from perdure.account.picture import describe_jobs
from perdure.domain.errors import ConfigurationInvalid
from perdure.domain.prices import Prices
from perdure.domain.retries import HOST_GONE, RetryStrategy, would_retry

_LARGEST_ARRAY = 10_000


@dataclass(frozen=True)
class PastAttempt:
    """One attempt that ran. `instance_type` and `zone`: "" where AWS has forgotten the instance. `exit_code`: None for
    one whose host was lost, or that still runs."""

    started_at: datetime
    stopped_at: datetime | None
    status_reason: str
    exit_code: int | None
    instance_type: str = ""
    zone: str = ""


@dataclass(frozen=True)
class PastJob:
    """One job; an array's child is a job. `on_spot`: its queue's compute environments start Spot instances."""

    job_id: str
    name: str
    queue: str
    status: str
    vcpus: float
    memory_mib: int
    attempts: tuple[PastAttempt, ...]
    allowed_attempts: int
    retries_lost_hosts: bool
    on_spot: bool
    protectable: bool


@dataclass(frozen=True)
class History:
    """The account's last days. `likely`: by queue, the (type, zone) pairs that an instance whose kind AWS has forgotten
    may have had. `vcpus`: by type."""

    since: datetime
    until: datetime
    region: str
    jobs: tuple[PastJob, ...] = ()
    likely: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    vcpus: dict[str, int] = field(default_factory=dict)
    prices: Prices = field(default_factory=Prices)
    refused: dict[str, str] = field(default_factory=dict)


def read_history(aws: Aws, queues: list[str], since: datetime, now: datetime) -> History:
    """Ask AWS. `queues`: empty for all. Raises ConfigurationInvalid for a queue that is not there, CloudUnavailable."""
    known = aws.ask(
        "batch:DescribeJobQueues",
        lambda: aws.pages("batch", "describe_job_queues", "jobQueues"),
        list[Shown](),
    )
    if "batch:DescribeJobQueues" in aws.refused:
        raise ConfigurationInvalid(f"the account cannot be looked at: {aws.refused['batch:DescribeJobQueues']}")
    by_name = {str(one["jobQueueName"]): one for one in known}
    if missing := sorted(set(queues) - set(by_name)):
        raise ConfigurationInvalid(
            f"there is no job queue {missing[0]!r} in {aws.region}; there are {', '.join(by_name)}"
        )
    environments = _environments(aws)
    jobs: list[PastJob] = []
    likely: dict[str, tuple[tuple[str, str], ...]] = {}
    vcpus: dict[str, int] = {}
    for name in queues or sorted(by_name):
        used = [
            environments[one["computeEnvironment"]]
            for one in by_name[name].get("computeEnvironmentOrder", [])
            if one["computeEnvironment"] in environments
        ]
        shown = _jobs(aws, name, since)
        places, types = instances(aws, shown, used)
        vcpus |= types
        likely[name] = likely_pairs(aws, used, vcpus)
        kinds = {(one.get("computeResources") or {}).get("type") for one in used}
        jobs += [_job(one, name, places, kinds) for one in shown]
    pairs = {(one.instance_type, one.zone) for job in jobs for one in job.attempts if one.instance_type and one.zone}
    for name in likely:
        if any(not one.instance_type for job in jobs if job.queue == name for one in job.attempts):
            pairs |= set(smallest_of_each_family(likely[name], vcpus))
    spot = {pair: spot_points(aws, pair, since, now) for pair in sorted(pairs)}
    prices = Prices({pair: found for pair, found in spot.items() if found.points})
    return History(since, now, aws.region, tuple(jobs), likely, vcpus, prices, aws.refused)


def _environments(aws: Aws) -> dict[str, Shown]:
    found = aws.ask(
        "batch:DescribeComputeEnvironments",
        lambda: aws.pages("batch", "describe_compute_environments", "computeEnvironments"),
        list[Shown](),
    )
    return {str(one[key]): one for one in found for key in ("computeEnvironmentArn", "computeEnvironmentName")}


def _jobs(aws: Aws, queue: str, since: datetime) -> list[Shown]:
    """Jobs that were submitted since then, an array's children in its place."""
    after = [{"name": "AFTER_CREATED_AT", "values": [str(int(since.timestamp() * 1000))]}]
    listed = aws.ask(
        "batch:ListJobs",
        lambda: aws.pages("batch", "list_jobs", "jobSummaryList", jobQueue=queue, filters=after),
        list[Shown](),
    )
    ids: list[str] = []
    for one in listed:
        size = min(int((one.get("arrayProperties") or {}).get("size", 0)), _LARGEST_ARRAY)
        ids += [f"{one['jobId']}:{index}" for index in range(size)] if size else [str(one["jobId"])]
    return describe_jobs(aws, ids)


def _job(shown: Shown, queue: str, places: dict[str, tuple[str, str]], kinds: set[Any]) -> PastJob:
    container = shown.get("container") or {}
    resources = {one["type"]: one["value"] for one in container.get("resourceRequirements", [])}
    strategy = shown.get("retryStrategy") or {}
    attempts = [_attempt(one, places) for one in shown.get("attempts", []) if one.get("startedAt")]
    if shown["status"] == "RUNNING" and shown.get("startedAt"):
        here = {
            "startedAt": shown["startedAt"],
            "container": {"containerInstanceArn": container.get("containerInstanceArn")},
        }
        attempts.append(_attempt(here, places))
    several = (
        "nodeProperties" in shown
        or len(
            [one for task in (shown.get("ecsProperties") or {}).get("taskProperties", []) for one in task["containers"]]
        )
        > 1
    )
    return PastJob(
        job_id=str(shown["jobId"]),
        name=str(shown.get("jobName", "")),
        queue=queue,
        status=str(shown["status"]),
        vcpus=float(resources.get("VCPU", container.get("vcpus") or 1)),
        memory_mib=int(float(resources.get("MEMORY", container.get("memory") or 0))),
        attempts=tuple(attempts),
        allowed_attempts=int(strategy.get("attempts") or 1),
        retries_lost_hosts=_retries_lost_hosts(strategy),
        on_spot="SPOT" in kinds,
        protectable="SPOT" in kinds and not several,
    )


def _retries_lost_hosts(strategy: Shown) -> bool:
    return would_retry(RetryStrategy.of_batch(strategy), exit_code=None, reason=None, status_reason=HOST_GONE)[0]


def _attempt(shown: Shown, places: dict[str, tuple[str, str]]) -> PastAttempt:
    reason = str(shown.get("statusReason", ""))
    container = shown.get("container") or {}
    keys = [str(container.get("containerInstanceArn")), *INSTANCE.findall(reason)]
    kind, zone = next((places[key] for key in keys if key in places), ("", ""))
    return PastAttempt(
        started_at=_instant(shown["startedAt"]),
        stopped_at=_instant(shown["stoppedAt"]) if shown.get("stoppedAt") else None,
        status_reason=reason,
        exit_code=container.get("exitCode"),
        instance_type=kind,
        zone=zone,
    )


def _instant(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
