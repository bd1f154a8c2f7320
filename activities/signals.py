"""Signals to the workflows of jobs and nodes, which may be over or not there yet when somebody has news for them."""

from __future__ import annotations

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from perdure.contracts import names
from perdure.contracts.inventory import NodeWatchInput
from perdure.domain.nodes import Node


async def tell_job(client: Client, job_id: str, signal: str, about: object) -> None:
    """The job's workflow is told, unless it has finished meanwhile. Raises RPCError."""
    handle = client.get_workflow_handle(names.job_workflow_id(job_id))
    try:
        await handle.signal(signal, about)
    except RPCError as problem:
        if problem.status != RPCStatusCode.NOT_FOUND:  # which means: finished meanwhile
            raise


async def tell_node(
    client: Client, instance_id: str, node: Node | None, signal: str, about: object, summary: str
) -> None:
    """The instance's workflow is told, and started where it is not there: one that is lost is put right all the same.
    `node`: as it is recorded. Raises RPCError."""
    await client.start_workflow(
        names.NODE_WATCH,
        NodeWatchInput(instance_id=instance_id, node=node),
        id=names.node_workflow_id(instance_id),
        task_queue=names.CONTROL_QUEUE,
        start_signal=signal,
        start_signal_args=[about],
        static_summary=summary,
    )
