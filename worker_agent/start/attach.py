"""Asking the job's workflow for a plan: update-with-start `attach`, again and again until it decides.

The handler answers WAIT after at most 20 s; then a new question is asked, under a new update id, for a known id replays
its old answer. A question may be lost: with a connection, with a run of the workflow that ends, with a server that
restarts. Nobody says so. So one that is not answered is asked again after a few seconds *under its own id*: where it
was not lost, Temporal hands out the update that it has, which costs the workflow no event; where it was, it is new.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowUpdateFailedError,
    WorkflowUpdateHandle,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    WorkflowUpdateStage,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from perdure.contracts import names
from perdure.contracts.protection import AttachReply, AttachRequest, JobProtectionInput, Verdict
from worker_agent.tell.connection import Connection

log = structlog.get_logger()

_PATIENCE = (2.5, 4.0, 6.0, 10.0)
"""Seconds for a question to be taken in, and as many for its answer; then it is asked again. Of the first, second, …
time; the last of all further ones."""
_PAUSES = (0.25, 0.5, 1.0, 2.0)
"""Seconds after a plain error: it came at once, and would again."""
_NO_ANSWER = (RPCError, WorkflowUpdateRPCTimeoutOrCancelledError, RuntimeError)
"""A server that is away or restarts. RuntimeError: a lazy client that cannot connect."""
_TAKEN_IN = AttachReply(verdict=Verdict.WAIT, reason="the workflow works on it")
FINISHED = "its workflow is finished"
UNREADABLE = "this agent cannot read the server's answer; they are of different versions"

T = TypeVar("T")


class Attacher:
    """Asks for plans."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def ask(
        self, request: AttachRequest, summary: str, *, first_answer: float | None, limit: float
    ) -> AttachReply | None:
        """The workflow's decision for this container, at most after `limit` seconds; then the last WAIT, or None if
        nobody has answered at all. With `first_answer`, None already after that many seconds without any answer; a
        question that the workflow has taken in counts as answered.

        A finished workflow takes no containers: verdict UNPROTECTED. So has an answer that cannot be read.
        """
        begun = time.monotonic()
        last: AttachReply | None = None
        key, lost, failed = _new_key(request), 0, 0

        def left() -> float:
            return begun + (first_answer if last is None and first_answer is not None else limit) - time.monotonic()

        while left() > 0:
            patience, client = _nth(_PATIENCE, lost), self._connection.client
            try:
                question = await _within(min(patience, left()), _put(client, request, summary, key))
                last = last or _TAKEN_IN
                last = await _within(min(patience, left()), question.result())
            except (WorkflowAlreadyStartedError, ValidationError) as problem:
                return _without_workflow(request, problem)
            except TimeoutError:
                lost += 1
                log.info("attach is asked again", job_id=request.job_id, after=patience, taken_in=last is not None)
                await self._connection.doubt(client)
            except (WorkflowUpdateFailedError, *_NO_ANSWER) as problem:
                log.warning("attach was not answered", job_id=request.job_id, reason=_short(problem))
                if isinstance(problem, WorkflowUpdateFailedError):
                    key = _new_key(request)  # that was its answer: it was refused, or the run ended with it in flight
                await asyncio.sleep(max(0.0, min(_nth(_PAUSES, failed), left())))
                failed += 1
            else:
                if last.verdict is not Verdict.WAIT:
                    return last
                key, lost, failed = _new_key(request), 0, 0
        return last


async def _put(client: Client, request: AttachRequest, summary: str, key: str) -> WorkflowUpdateHandle[AttachReply]:
    """The question under that update id, once the workflow has taken it in."""
    start: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
        names.JOB_PROTECTION,
        JobProtectionInput(job_id=request.job_id),
        id=names.job_workflow_id(request.job_id),
        task_queue=names.CONTROL_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        static_summary=summary,
    )
    # Somebody must look at the start's outcome, or asyncio complains about it later.
    started = asyncio.ensure_future(start.workflow_handle())
    started.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        return await client.start_update_with_start_workflow(
            "attach",
            request,
            start_workflow_operation=start,
            wait_for_stage=WorkflowUpdateStage.ACCEPTED,
            id=key,
            result_type=AttachReply,
        )
    finally:
        started.cancel()


async def _within(seconds: float, call: Coroutine[Any, Any, T]) -> T:
    """The call's result, or TimeoutError. Temporal's client takes the cancellation of a question for its failure; so it
    has a task of its own, or a container that was given up would go on asking."""
    asking = asyncio.create_task(call)
    try:
        await asyncio.wait({asking}, timeout=max(0.0, seconds))
        if not asking.done():
            raise TimeoutError
        return asking.result()
    finally:
        asking.cancel()
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())


def _without_workflow(request: AttachRequest, problem: Exception) -> AttachReply:
    """Asking again would change nothing, and the container shall not wait for its time-out."""
    if isinstance(problem, WorkflowAlreadyStartedError):
        # Batch would not start a container of a job that is over, so our books are wrong (a workflow that somebody
        # ended, say). The container must run all the same.
        return AttachReply(verdict=Verdict.UNPROTECTED, reason=FINISHED)
    log.error("attach's answer cannot be read", job_id=request.job_id, reason=_short(problem))
    return AttachReply(verdict=Verdict.UNPROTECTED, reason=UNREADABLE)


def _new_key(request: AttachRequest) -> str:
    return f"attach-{request.container_id}-{uuid.uuid4().hex[:12]}"


def _nth(seconds: tuple[float, ...], times: int) -> float:
    return seconds[min(times, len(seconds) - 1)]


def _short(problem: Exception) -> str:
    cause = problem.cause if isinstance(problem, WorkflowUpdateFailedError) else problem
    return str(cause)[:300] or type(problem).__name__
