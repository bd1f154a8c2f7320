"""A Batch job and its attempts, and how DescribeJobs and ListJobs show them.

Which fields are there when: clients rely on it. `stoppedAt` of a job only once it is terminal (metaflow takes it for
done); `exitCode` absent when the host was lost (Nextflow, miniwdl), 0 on success (toil, covalent). Times are
milliseconds since 1970, as Batch's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from localcloud.aws.batch.retry import Ending, Strategy
from localcloud.node_link import ContainerOptions, Mount

WAITING = frozenset({"SUBMITTED", "PENDING", "RUNNABLE"})
TERMINAL = frozenset({"SUCCEEDED", "FAILED"})
STATUSES = WAITING | TERMINAL | {"STARTING", "RUNNING"}


def now_ms() -> int:
    """Batch's clock."""
    return int(time.time() * 1000)


@dataclass(frozen=True)
class ContainerPlan:
    """What is to run: the job definition with the submission's overrides laid over it. `properties` is the same as
    DescribeJobs shows it."""

    image: str
    command: list[str]
    environment: dict[str, str]
    vcpus: float
    memory_mib: int
    mounts: list[Mount]
    user: str | None
    privileged: bool
    options: ContainerOptions
    properties: dict[str, Any]


@dataclass
class Attempt:
    """One container of a job. It counts as an attempt of the job once it runs; until then it may repeat its number."""

    number: int
    instance_id: str
    zone: str
    container_id: str
    task_arn: str
    container_instance_arn: str
    log_stream: str
    started_at: int | None = None
    stopped_at: int | None = None
    ending: Ending | None = None

    def container(self) -> dict[str, Any]:
        """The container's part of an attempt's or a job's description."""
        shown: dict[str, Any] = {"containerInstanceArn": self.container_instance_arn, "taskArn": self.task_arn}
        if self.started_at is not None:
            shown["logStreamName"] = self.log_stream
        if self.ending is not None:
            if self.ending.exit_code is not None:
                shown["exitCode"] = self.ending.exit_code
            if self.ending.reason is not None:
                shown["reason"] = self.ending.reason
        return {**shown, "networkInterfaces": []}

    def describe(self) -> dict[str, Any]:
        """As in `attempts` of DescribeJobs; only for one that has ended."""
        shown: dict[str, Any] = {"container": self.container(), "taskProperties": []}
        if self.started_at is not None:
            shown["startedAt"] = self.started_at
        if self.stopped_at is not None:
            shown["stoppedAt"] = self.stopped_at
        if self.ending is not None and self.ending.status_reason is not None:
            shown["statusReason"] = self.ending.status_reason
        return shown


@dataclass
class Job:
    """A single job. Only the engine changes it, under the cloud's lock."""

    job_id: str
    arn: str
    name: str
    queue: str
    queue_arn: str
    definition_arn: str
    compute_environment: str
    plan: ContainerPlan
    strategy: Strategy
    timeout_seconds: int | None
    tags: dict[str, str]
    parameters: dict[str, str]
    propagate_tags: bool
    created_at: int
    status: str = "RUNNABLE"
    status_reason: str | None = None
    started_at: int | None = None
    stopped_at: int | None = None
    attempts: list[Attempt] = field(default_factory=list)
    zone: str | None = None
    """The only zone in which it may be placed next; None: wherever there is capacity."""
    end_reason: str | None = None
    """Why it is being stopped for good (TerminateJob, time-out)."""
    cancelled: bool = False
    terminated: bool = False

    @property
    def current(self) -> Attempt | None:
        """The container that is starting or running."""
        return self.attempts[-1] if self.attempts and self.attempts[-1].ending is None else None

    @property
    def counted(self) -> int:
        """Attempts that ran."""
        return sum(attempt.started_at is not None for attempt in self.attempts)

    @property
    def failed_starts(self) -> int:
        """Containers that could not be started, the fault being the container's and not its host's."""
        return sum(
            attempt.started_at is None and attempt.ending is not None and attempt.ending.reason is not None
            for attempt in self.attempts
        )

    def describe(self) -> dict[str, Any]:
        """As in `jobs` of DescribeJobs."""
        container = dict(self.plan.properties)
        if self.attempts:
            container |= self.attempts[-1].container()
        shown: dict[str, Any] = {
            **self._common(),
            "jobQueue": self.queue_arn,
            "jobDefinition": self.definition_arn,
            "attempts": [attempt.describe() for attempt in self.attempts if attempt.ending is not None],
            "container": container,
            "retryStrategy": self.strategy.describe(),
            "dependsOn": [],
            "parameters": self.parameters,
            "tags": self.tags,
            "propagateTags": self.propagate_tags,
            "platformCapabilities": ["EC2"],
            "eksAttempts": [],
            "isCancelled": self.cancelled,
            "isTerminated": self.terminated,
        }
        if self.timeout_seconds is not None:
            shown["timeout"] = {"attemptDurationSeconds": self.timeout_seconds}
        return shown

    def summary(self) -> dict[str, Any]:
        """As in `jobSummaryList` of ListJobs."""
        container: dict[str, Any] = {}
        if self.attempts:
            seen = self.attempts[-1].container()
            container = {name: seen[name] for name in ("exitCode", "reason") if name in seen}
        return {**self._common(), "jobDefinition": self.definition_arn, "container": container}

    def _common(self) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "jobId": self.job_id,
            "jobArn": self.arn,
            "jobName": self.name,
            "status": self.status,
            "createdAt": self.created_at,
        }
        for name, value in (
            ("statusReason", self.status_reason),
            ("startedAt", self.started_at),
            ("stoppedAt", self.stopped_at),
        ):
            if value is not None:
                shown[name] = value
        return shown
