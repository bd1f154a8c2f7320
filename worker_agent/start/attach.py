"""Asking the job's workflow for a plan: update-with-start `attach`, again and again until it decides.

Rules learnt by trial: the handler answers WAIT after at most 20 s, and a repeated update id replays an old answer, so
each question has a fresh id; RPC errors of a server that restarts are not answers.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

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

log = structlog.get_logger()

_ACCEPTANCE = 15.0
"""Seconds in which a workflow that is served at all takes a question in."""
_ANSWER = 30.0
"""Seconds for the answer: the handler's 20 and some for a slow server."""
_PAUSES = (0.25, 0.5, 1.0, 2.0)
_NO_ANSWER = (RPCError, WorkflowUpdateRPCTimeoutOrCancelledError, TimeoutError, RuntimeError)
"""A server that is away or restarts. RuntimeError: a lazy client that cannot connect."""
_TAKEN_IN = AttachReply(verdict=Verdict.WAIT, reason="the workflow works on it")
FINISHED = "its workflow is finished"
UNREADABLE = "this agent cannot read the server's answer; they are of different versions"

_Question = WorkflowUpdateHandle[AttachReply] | AttachReply


class Attacher:
    """Asks for plans. `client` may be lazy: the server may be away."""

    def __init__(self, client: Client) -> None:
        self._client = client

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
        failures = 0
        while True:
            end = begun + (first_answer if last is None and first_answer is not None else limit)
            left = end - time.monotonic()
            if left <= 0:
                return last
            question = await self._put(request, summary, left)
            last = last or (None if question is None else _TAKEN_IN)
            reply = None if question is None else await self._hear(request, question, begun + limit - time.monotonic())
            if reply is not None and reply.verdict is not Verdict.WAIT:
                return reply
            last = reply or last
            failures = 0 if reply is not None else failures + 1
            if failures:
                pause = _PAUSES[min(failures, len(_PAUSES)) - 1]
                await asyncio.sleep(max(0.0, min(pause, end - time.monotonic())))

    async def _put(self, request: AttachRequest, summary: str, left: float) -> _Question | None:
        """Ask. The question's handle once the workflow has taken it in; the answer itself if no workflow can; None
        when nobody took it."""
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
            async with asyncio.timeout(min(_ACCEPTANCE, left)):
                return await self._client.start_update_with_start_workflow(
                    "attach",
                    request,
                    start_workflow_operation=start,
                    wait_for_stage=WorkflowUpdateStage.ACCEPTED,
                    id=f"attach-{request.container_id}-{uuid.uuid4().hex[:12]}",
                    result_type=AttachReply,
                )
        except WorkflowAlreadyStartedError:
            # Batch would not start a container of a job that is over, so our books are wrong (a workflow that somebody
            # ended, say). The container must run all the same.
            return AttachReply(verdict=Verdict.UNPROTECTED, reason=FINISHED)
        except (WorkflowUpdateFailedError, *_NO_ANSWER) as problem:
            log.warning("attach is asked again", job_id=request.job_id, reason=_short(problem))
            return None
        finally:
            started.cancel()

    async def _hear(self, request: AttachRequest, question: _Question, left: float) -> AttachReply | None:
        if isinstance(question, AttachReply):
            return question
        try:
            async with asyncio.timeout(max(0.1, min(_ANSWER, left))):
                return await question.result()
        except (WorkflowUpdateFailedError, *_NO_ANSWER) as problem:
            # The run ended, or went on as a new one, with our question in flight; or it refused the question.
            log.warning("attach was not answered", job_id=request.job_id, reason=_short(problem))
            return None
        except ValidationError as problem:
            # Asking again would change nothing, and the container shall not wait for its time-out.
            log.error("attach's answer cannot be read", job_id=request.job_id, reason=_short(problem))
            return AttachReply(verdict=Verdict.UNPROTECTED, reason=UNREADABLE)


def _short(problem: Exception) -> str:
    cause = problem.cause if isinstance(problem, WorkflowUpdateFailedError) else problem
    return str(cause)[:300] or type(problem).__name__
