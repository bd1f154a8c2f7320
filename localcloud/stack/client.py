"""What the command line (and the demo) asks of a running stack, over HTTP: API, AWS (boto3), the cloud's /_local."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import httpx

from localcloud.stack.job_request import JobRequest, container_properties, definition_name, retry_strategy
from localcloud.stack.stack import StackPlace, StackState, ready_state
from perdure.domain.errors import CheckpointFailed, ConfigurationInvalid, StackError, UnknownJob, UnknownNode

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient
    from mypy_boto3_cognito_idp import CognitoIdentityProviderClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client

FINISHED = {"SUCCEEDED", "FAILED"}
POLL_SECONDS = 0.5
SETTLE_SECONDS = 120.0
"""How long after Batch's end of a job Perdure's own books are given to close."""
CHECKPOINT_LIMIT_SECONDS = 300.0
CREDENTIALS = {"aws_access_key_id": "perdure", "aws_secret_access_key": "perdure"}


class StackClient:
    """One running stack. Every call raises StackError when a part of it does not answer."""

    def __init__(self, state: StackState, token: str = "") -> None:
        self.state = state
        self.token = token
        """For the API, once it asks for sign-in; empty before."""
        self._http = httpx.Client(timeout=httpx.Timeout(180, connect=60))

    @classmethod
    def of(cls, place: StackPlace) -> StackClient:
        """The running stack at that place. Raises StackMissing."""
        state = ready_state(place)
        try:
            return cls(state, place.token_file.read_text())
        except FileNotFoundError:
            return cls(state)

    def close(self) -> None:
        """Let go of all connections."""
        self._http.close()
        for service in {"batch", "cognito", "logs", "s3"} & self.__dict__.keys():  # those that were used
            getattr(self, service).close()

    @functools.cached_property
    def batch(self) -> BatchClient:
        """AWS Batch of this stack."""
        return self._aws("batch")  # type: ignore[no-any-return]

    @functools.cached_property
    def logs(self) -> CloudWatchLogsClient:
        """CloudWatch Logs of this stack."""
        return self._aws("logs")  # type: ignore[no-any-return]

    @functools.cached_property
    def cognito(self) -> CognitoIdentityProviderClient:
        """Cognito's user pools of this stack."""
        return self._aws("cognito-idp")  # type: ignore[no-any-return]

    @functools.cached_property
    def s3(self) -> S3Client:
        """S3 of this stack."""
        return self._aws("s3")  # type: ignore[no-any-return]

    def status(self) -> dict[str, Any]:
        """What `status --json` prints: addresses, queues, nodes (those that serve or served) and jobs."""
        cloud = self.cloud("GET", "/_local/status")
        nodes = [node for node in cloud["nodes"] if node["state"] in {"ready", "noticed", "gone"}]
        return {
            "stack": self.state.stack,
            "engine": self.state.engine,
            "api_url": self.state.api_url,
            "temporal_ui_url": self.state.temporal_ui_url,
            "temporal_address": self.state.temporal_address,
            "aws_endpoint_url": self.state.aws_endpoint_url,
            "region": self.state.region,
            "queues": self.state.queues,
            "nodes": [{name: node.get(name) for name in ("id", "zone", "state", "instance_type")} for node in nodes],
            "jobs": cloud["jobs"],
            "processes": self.state.processes,
        }

    def submit(self, job: JobRequest) -> str:
        """Register a definition with the job's mounts and submit it; the Batch job id. Raises StackError."""
        with self.aws_errors():
            definition = self.batch.register_job_definition(
                jobDefinitionName=definition_name(job.name),
                type="container",
                containerProperties=container_properties(job),
                retryStrategy=retry_strategy(job.attempts, host_rules=job.host_rules),
            )
            submitted = self.batch.submit_job(
                jobName=job.name,
                jobQueue=job.queue or self.state.queues[0],
                jobDefinition=definition["jobDefinitionArn"],
            )
        return submitted["jobId"]

    def reclaim(self, request: dict[str, Any], tell: Callable[[str], None]) -> None:
        """Start a reclaim and return when its node is gone; `tell` gets each step. Raises UnknownJob, UnknownNode."""
        unknown = UnknownJob if "job_id" in request else UnknownNode
        reclaim = self.cloud("POST", "/_local/reclaim", json=request, unknown=unknown)
        told = 0
        while True:
            reclaim = self.cloud("GET", f"/_local/reclaims/{reclaim['id']}", params={"wait": 2})
            for step in reclaim["steps"][told:]:
                tell(f"{reclaim['node']}: {step['what']}")
            told = len(reclaim["steps"])
            if reclaim["state"] == "done":
                return

    def checkpoint(self, job_id: str) -> int:
        """Have a checkpoint taken; its number once it is committed. Raises UnknownJob, CheckpointFailed."""
        answer = self.api("POST", f"/api/v1/jobs/{job_id}/checkpoints", timeout=CHECKPOINT_LIMIT_SECONDS)
        if answer.status_code == 404 and self.described(job_id) is None:
            raise UnknownJob(f"there is no job {job_id!r}")
        if answer.is_error:
            raise CheckpointFailed(_sentence(answer))
        return int(answer.json()["number"])

    def described(self, job_id: str) -> dict[str, Any] | None:
        """The job as DescribeJobs shows it; None when Batch does not know it."""
        with self.aws_errors():
            found = self.batch.describe_jobs(jobs=[job_id])["jobs"]
        return dict(found[0]) if found else None

    def placed(self, job_id: str) -> dict[str, Any]:
        """The job as the cloud places it: node, zones, container, volumes. Raises UnknownJob."""
        return self.cloud("GET", f"/_local/jobs/{job_id}", unknown=UnknownJob)

    def job_page(self, job_id: str) -> dict[str, Any] | None:
        """The job as Perdure's API shows it; None when Perdure never heard of it (it ran unprotected)."""
        answer = self.api("GET", f"/api/v1/jobs/{job_id}")
        if answer.status_code == 404:
            return None
        if answer.is_error:
            raise StackError(f"the API refuses: {_sentence(answer)}")
        page: dict[str, Any] = answer.json()
        return page

    def wait(self, job_id: str, limit_seconds: float | None, tell: Callable[[str], None]) -> dict[str, Any]:
        """What `wait --json` prints, once the job is finished; `tell` gets each change of its status.

        Raises UnknownJob; TimeoutError after the limit.
        """
        job = self._wait_for(FINISHED, job_id, limit_seconds, tell)
        return self._summary(job, self._settled_page(job_id))

    def wait_until_it_runs(self, job_id: str, limit_seconds: float | None, tell: Callable[[str], None]) -> str:
        """The job's status: RUNNING, or how it ended. Otherwise as `wait`."""
        return str(self._wait_for({"RUNNING", *FINISHED}, job_id, limit_seconds, tell)["status"])

    def _wait_for(
        self, statuses: Collection[str], job_id: str, limit_seconds: float | None, tell: Callable[[str], None]
    ) -> dict[str, Any]:
        end = time.monotonic() + limit_seconds if limit_seconds is not None else None
        told = ""
        while True:
            job = self.described(job_id)
            if job is None:
                raise UnknownJob(f"there is no job {job_id!r}")
            if job["status"] != told:
                told = job["status"]
                tell(f"{job_id}: {told}")
            if told in statuses:
                return job
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"job {job_id} is still {told} after {limit_seconds:g} s")
            time.sleep(POLL_SECONDS)

    def api(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request to Perdure's API, whatever its status."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return self._request(method, f"{self.state.api_url}{path}", headers=headers, **more)

    def asked(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """What Perdure's API answers. Raises StackError with its sentence when it refuses."""
        answer = self.api(method, path, **more)
        if answer.is_error:
            raise StackError(f"the API refuses: {_sentence(answer)}")
        document: dict[str, Any] = answer.json()
        return document

    def cloud(
        self, method: str, path: str, *, unknown: type[UnknownJob | UnknownNode] | None = None, **more: Any
    ) -> dict[str, Any]:
        """One control request to the cloud. Raises `unknown` for 404, StackError with its sentence otherwise."""
        answer = self._request(method, f"{self.state.aws_endpoint_url}{path}", **more)
        if answer.is_error:
            raise (unknown if unknown and answer.status_code == 404 else StackError)(_sentence(answer))
        document: dict[str, Any] = answer.json()
        return document

    def _settled_page(self, job_id: str) -> dict[str, Any] | None:
        """Perdure's page once it is finished there too (its last figures come a moment after Batch's end)."""
        end = time.monotonic() + SETTLE_SECONDS
        page = self.job_page(job_id)
        while page is not None and page.get("finished_at") is None and time.monotonic() < end:
            time.sleep(POLL_SECONDS / 2)
            page = self.job_page(job_id)
        return page

    def _summary(self, job: dict[str, Any], page: dict[str, Any] | None) -> dict[str, Any]:
        known = page or {}
        outages = known.get("outages")
        # Batch counts an attempt when the container runs; one that died while it started is listed too, but is none.
        zones = self.placed(job["jobId"])["zones"]
        return {
            "id": job["jobId"],
            "name": job["jobName"],
            "status": job["status"],
            "status_reason": job.get("statusReason"),
            "perdure_state": known.get("state"),
            "exit_code": job.get("container", {}).get("exitCode"),
            "attempts": len(zones),
            "protections": known.get("protections"),
            "checkpoints": known.get("checkpoints_committed"),
            "zones": zones,
            "outages": outages
            and [{"seconds": outage.get("seconds"), "phases": outage.get("phases", {})} for outage in outages],
            "max_rootfs_bytes": known.get("max_rootfs_bytes"),
        }

    def _request(self, method: str, url: str, **more: Any) -> httpx.Response:
        try:
            return self._http.request(method, url, **more)
        except httpx.HTTPError as problem:
            raise StackError(f"stack {self.state.stack!r} does not answer at {url}: {problem}") from problem

    def _aws(self, service: str) -> Any:
        import boto3  # half a second, which most commands need not wait for

        return boto3.client(  # type: ignore[call-overload]
            service, endpoint_url=self.state.aws_endpoint_url, region_name=self.state.region, **CREDENTIALS
        )

    def aws_errors(self) -> _AwsErrors:
        """Around requests to AWS: its errors come out as StackError."""
        return _AwsErrors(self.state.stack)


class _AwsErrors:
    """Turns botocore's errors into ours, at the one place where they enter."""

    def __init__(self, stack: str) -> None:
        self._stack = stack

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

        if isinstance(problem, ClientError):
            raise StackError(f"AWS refuses: {problem.response['Error'].get('Message', problem)}") from problem
        if isinstance(problem, ParamValidationError):
            raise ConfigurationInvalid(" ".join(str(problem).split())) from problem
        if isinstance(problem, BotoCoreError):
            raise StackError(f"stack {self._stack!r} does not answer: {problem}") from problem


def _sentence(answer: httpx.Response) -> str:
    """What an error answer says, whichever of ours wrote it."""
    try:
        document = answer.json()
    except ValueError:
        return f"{answer.request.url.path} answers {answer.status_code}"
    error = document.get("error")
    words = error.get("message") if isinstance(error, dict) else error
    return str(words) if words else f"{answer.request.url.path} answers {answer.status_code}"
