"""The part of Batch's API that we answer before moto: SubmitJob, DescribeJobs, ListJobs, TerminateJob, CancelJob.

Source: AWS Batch API reference. Everything else (definitions, queues, compute environments, tags) goes on to moto.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from localcloud.aws.batch.definitions import lower_keys, make_job
from localcloud.aws.batch.engine import Engine
from localcloud.aws.batch.jobs import STATUSES, Job
from localcloud.aws.ec2_wire import Application, Environ, StartResponse, read_body, respond, respond_json
from localcloud.errors import AwsError

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

MOST_DESCRIBED = 100
PAGE = 100
Request = dict[str, Any]


class BatchApi:
    """A WSGI application in front of another."""

    def __init__(
        self, app: Application, engine: Engine, batch: BatchClient, region: str, shortest_attempt: float
    ) -> None:
        self._app, self._engine, self._batch = app, engine, batch
        self._region, self._shortest_attempt = region, shortest_attempt
        self._actions: dict[str, Callable[[Request], Any]] = {
            "/v1/submitjob": self._submit,
            "/v1/describejobs": self._describe,
            "/v1/listjobs": self._list,
            "/v1/terminatejob": self._terminate,
            "/v1/canceljob": self._cancel,
        }

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        """Answer one Batch request."""
        action = self._actions.get(environ.get("PATH_INFO", ""))
        if action is None:
            return self._app(environ, start)
        try:
            request = _parse(read_body(environ))
            return respond_json(start, action(request))
        except AwsError as refusal:
            body = json.dumps({"message": str(refusal), "code": refusal.code}).encode()
            return respond(start, body, refusal.status, "application/json", {"x-amzn-ErrorType": refusal.code})

    def _submit(self, request: Request) -> Any:
        job = make_job(self._batch, request, self._region, self._shortest_attempt)
        self._engine.submit(job)
        return {"jobId": job.job_id, "jobName": job.name, "jobArn": job.arn}

    def _describe(self, request: Request) -> Any:
        job_ids = request.get("jobs") or []
        if len(job_ids) > MOST_DESCRIBED:
            raise AwsError("ClientException", f"At most {MOST_DESCRIBED} jobs can be described at once.")
        return {"jobs": self._engine.describe([str(job_id).rsplit("/", 1)[-1] for job_id in job_ids])}

    def _list(self, request: Request) -> Any:
        queue, status = request.get("jobQueue"), request.get("jobStatus")
        if status is not None and status not in STATUSES:
            raise AwsError("ClientException", f"`{status}` is not a job status.")
        if request.get("arrayJobId") or request.get("multiNodeJobId"):
            return {"jobSummaryList": []}
        if not queue:
            raise AwsError("ClientException", "jobQueue must be specified.")
        filters = request.get("filters") or []
        # With filters AWS ignores the status; without either it lists what is running.
        wanted = None if filters else status or "RUNNING"
        summaries = self._engine.summaries(
            lambda job: (
                queue in {job.queue, job.queue_arn}
                and (wanted is None or job.status == wanted)
                and all(_passes(job, each) for each in filters)
            )
        )
        return _page(summaries, request)

    def _terminate(self, request: Request) -> Any:
        # 200 on a finished and on an unknown job too: clients end what has ended.
        self._engine.terminate(*_ending(request))
        return {}

    def _cancel(self, request: Request) -> Any:
        self._engine.cancel(*_ending(request))
        return {}


def _parse(body: bytes) -> Request:
    try:
        request = lower_keys(json.loads(body or b"{}"))
    except ValueError as error:
        raise AwsError("ClientException", f"The request is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise AwsError("ClientException", "The request must be a JSON object.")
    return request


def _ending(request: Request) -> tuple[str, str]:
    job_id, reason = request.get("jobId"), request.get("reason")
    if not job_id or not reason:
        raise AwsError("ClientException", "jobId and reason must be specified.")
    return str(job_id), str(reason)


def _passes(job: Job, wanted: Request) -> bool:
    """One filter of ListJobs: JOB_NAME and JOB_DEFINITION take a trailing `*`, the times are milliseconds."""
    name, values = wanted.get("name"), [str(value) for value in wanted.get("values") or []]
    if name == "BEFORE_CREATED_AT":
        return any(job.created_at < int(value) for value in values)
    if name == "AFTER_CREATED_AT":
        return any(job.created_at > int(value) for value in values)
    seen = {"JOB_NAME": job.name, "JOB_DEFINITION": job.definition_arn.rsplit("/", 1)[-1].split(":")[0]}.get(name or "")
    if seen is None:
        raise AwsError("ClientException", f"`{name}` is not a filter that the local Batch knows.")
    return any(
        seen.lower().startswith(value[:-1].lower()) if value.endswith("*") else seen.lower() == value.lower()
        for value in values
    )


def _page(summaries: list[Request], request: Request) -> Request:
    size, start = int(request.get("maxResults") or PAGE), int(request.get("nextToken") or 0)
    page: Request = {"jobSummaryList": summaries[start : start + size]}
    if start + size < len(summaries):
        page["nextToken"] = str(start + size)
    return page
