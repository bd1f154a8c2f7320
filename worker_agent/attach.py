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
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from perdure.contracts import names
from perdure.contracts.protection import AttachReply, AttachRequest, JobProtectionInput, Verdict

log = structlog.get_logger()

_ONE_QUESTION = 30.0
"""Seconds for one question: the handler's 20 and some for a slow server."""
_PAUSES = (0.25, 0.5, 1.0, 2.0)
FINISHED = "its workflow is finished"


class Attacher:
    """Asks for plans. `client` may be lazy: the server may be away."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ask(
        self, request: AttachRequest, summary: str, *, first_answer: float | None, limit: float
    ) -> AttachReply | None:
        """The workflow's decision for this container, at most after `limit` seconds; then the last WAIT, or None if
        nobody has answered at all. With `first_answer`, None already after that many seconds without any answer.

        A finished workflow takes no containers: verdict UNPROTECTED.
        """
        begun = time.monotonic()
        last: AttachReply | None = None
        number = 0
        while True:
            end = begun + (first_answer if last is None and first_answer is not None else limit)
            left = end - time.monotonic()
            if left <= 0:
                return last
            reply = await self._ask_once(
                request, f"attach-{request.container_id}-{uuid.uuid4().hex[:12]}", summary, left
            )
            if reply is not None and reply.verdict is not Verdict.WAIT:
                return reply
            last = reply or last
            number = 0 if reply else number + 1
            if reply is None:
                await asyncio.sleep(min(_PAUSES[min(number, len(_PAUSES)) - 1], max(0.0, end - time.monotonic())))

    async def _ask_once(self, request: AttachRequest, update_id: str, summary: str, left: float) -> AttachReply | None:
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
            async with asyncio.timeout(min(_ONE_QUESTION, left)):
                reply: AttachReply = await self._client.execute_update_with_start_workflow(
                    "attach", request, start_workflow_operation=start, id=update_id, result_type=AttachReply
                )
                return reply
        except WorkflowAlreadyStartedError:
            # Batch would not start a container of a job that is over, so our books are wrong (a workflow that somebody
            # ended, say). The container must run all the same.
            return AttachReply(verdict=Verdict.UNPROTECTED, reason=FINISHED)
        except WorkflowUpdateFailedError as problem:
            # The run ended, or went on as a new one, with our question in flight; or it refused the question.
            log.warning("attach was not answered", job_id=request.job_id, reason=str(problem.cause or problem))
        except (RPCError, WorkflowUpdateRPCTimeoutOrCancelledError, TimeoutError, RuntimeError) as problem:
            log.warning("attach is asked again", job_id=request.job_id, reason=str(problem) or type(problem).__name__)
        finally:
            started.cancel()
        return None
