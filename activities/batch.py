"""What AWS Batch knows of a job."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from temporalio import activity

from activities import aws
from perdure.contracts.control import BatchActivities, BatchAttempt, BatchJob, JobRef
from perdure.domain.errors import UnknownJob
from perdure.domain.retries import RetryStrategy

ASKED_AT_ONCE = 100
"""Job ids that DescribeJobs takes in one call."""
_ENDED = {"SUCCEEDED", "FAILED"}
BATCH_LOG_GROUP = "/aws/batch/job"


class BatchLookups(BatchActivities):
    """Reads AWS Batch; changes nothing there."""

    def __init__(self, client: Any = None) -> None:
        self._batch = client or aws.client("batch")

    @activity.defn(name="describe_job")
    async def describe_job(self, job: JobRef) -> BatchJob:
        """DescribeJobs for one id. Raises UnknownJob when Batch does not know it, CloudUnavailable when it is away."""
        answer = await aws.call(f"describe job {job.job_id}", self._batch.describe_jobs, jobs=[job.job_id])
        # Ids are matched exactly: `jobs` also takes ARNs, and an id comes from a container's environment.
        found = next((one for one in answer.get("jobs", []) if one.get("jobId") == job.job_id), None)
        if found is None:
            raise UnknownJob(f"AWS Batch knows no job {job.job_id[:80]!r} in this account and region")
        return read_job(found)

    async def statuses(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Batch's status of each of these jobs that it knows. Raises CloudUnavailable when it is away."""
        return {job_id: found["status"] for job_id, found in (await self._describe(job_ids)).items()}

    async def jobs(self, job_ids: Sequence[str]) -> dict[str, BatchJob]:
        """What Batch says of each of these jobs that it knows. Raises CloudUnavailable when it is away."""
        return {job_id: read_job(found) for job_id, found in (await self._describe(job_ids)).items()}

    async def _describe(self, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        wanted = set(job_ids)
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(job_ids), ASKED_AT_ONCE):
            some = list(job_ids[start : start + ASKED_AT_ONCE])
            answer = await aws.call(f"describe {len(some)} jobs", self._batch.describe_jobs, jobs=some)
            found |= {one["jobId"]: one for one in answer.get("jobs", []) if one["jobId"] in wanted}
        return found

    async def goes_on(self, job_id: str) -> bool:
        """Whether a job that was submitted to go on from another may still take what that one kept. One whose id is not
        known yet (empty) may. Raises CloudUnavailable."""
        if not job_id:
            return True
        status = (await self.statuses([job_id])).get(job_id)
        return status is not None and status not in _ENDED


def read_job(found: dict[str, Any]) -> BatchJob:
    """One entry of DescribeJobs. Times there are milliseconds; 0 or absent means not yet."""
    container = found.get("container", {})
    resources = {one["type"]: one["value"] for one in container.get("resourceRequirements", [])}
    vcpus, memory = resources.get("VCPU", container.get("vcpus")), resources.get("MEMORY", container.get("memory"))
    return BatchJob(
        job_id=found["jobId"],
        name=found.get("jobName", ""),
        queue=found.get("jobQueue", "").rpartition("job-queue/")[2],  # an ARN; people know the name
        status=found["status"],
        status_reason=found.get("statusReason"),
        exit_code=container.get("exitCode"),
        vcpus=float(vcpus) if vcpus else None,
        memory_mib=int(memory) if memory else None,
        created_at=_instant(found.get("createdAt")),
        started_at=_instant(found.get("startedAt")),
        stopped_at=_instant(found.get("stoppedAt")),
        timeout_seconds=found.get("timeout", {}).get("attemptDurationSeconds"),
        retry=RetryStrategy.of_batch(found.get("retryStrategy", {})),
        attempts=[_read_attempt(one) for one in found.get("attempts", [])],
        container_count=_count_containers(found),
        terminated=bool(found.get("isTerminated") or found.get("isCancelled")),
        log_stream=container.get("logStreamName") or "",
        log_group=_log_group(container.get("logConfiguration") or {}),
    )


def _read_attempt(found: dict[str, Any]) -> BatchAttempt:
    container = found.get("container", {})
    return BatchAttempt(
        exit_code=container.get("exitCode"),
        reason=container.get("reason"),
        status_reason=found.get("statusReason"),
        started_at=_instant(found.get("startedAt")),
        stopped_at=_instant(found.get("stoppedAt")),
        log_stream=container.get("logStreamName") or "",
    )


def _log_group(found: dict[str, Any]) -> str:
    """https://docs.aws.amazon.com/batch/latest/userguide/using_awslogs.html: without a driver of its own, a job logs to
    CloudWatch, in Batch's own group."""
    if found.get("logDriver", "awslogs") != "awslogs":
        return ""
    return str((found.get("options") or {}).get("awslogs-group") or BATCH_LOG_GROUP)


def _count_containers(found: dict[str, Any]) -> int:
    """Containers that make up one attempt: of the ECS task's, or of all nodes of a multi-node job."""
    if "nodeProperties" in found:
        return max(2, int(found["nodeProperties"].get("numNodes", 2)))
    tasks = found.get("ecsProperties", {}).get("taskProperties", [])
    return max(1, sum(len(task.get("containers", [])) for task in tasks))


def _instant(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
