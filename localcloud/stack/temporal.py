"""What a stack asks of its Temporal server, ours or not: that it answers, knows our search attributes, has a worker."""

from __future__ import annotations

import asyncio

from temporalio.api.enums.v1 import IndexedValueType, TaskQueueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from perdure.contracts.names import CONTROL_QUEUE, SEARCH_ATTRIBUTES

TEMPORAL_PORT = 7233
"""Of the relay on the stack's bridge, which has no other user."""
POLL_SECONDS = 0.1

_TYPES = {
    "Keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "Int": IndexedValueType.INDEXED_VALUE_TYPE_INT,
    "Datetime": IndexedValueType.INDEXED_VALUE_TYPE_DATETIME,
}


async def prepare_temporal(address: str, namespace: str) -> None:
    """Wait until the server answers and add the search attributes that it lacks. Idempotent; bounded by the caller."""
    client = await _connect(address, namespace)
    while True:
        try:
            known = await client.operator_service.list_search_attributes(
                ListSearchAttributesRequest(namespace=namespace)
            )
            missing = {
                name: _TYPES[kind] for name, kind in SEARCH_ATTRIBUTES.items() if name not in known.custom_attributes
            }
            if not missing:
                return
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(namespace=namespace, search_attributes=missing)
            )
        except RPCError as problem:
            _raise_unless_starting(problem)
        await asyncio.sleep(POLL_SECONDS)


async def wait_for_worker(address: str, namespace: str) -> None:
    """Wait until some worker polls the control queue for workflows and for activities; bounded by the caller."""
    client = await _connect(address, namespace)
    for kind in (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY):
        request = DescribeTaskQueueRequest(
            namespace=namespace, task_queue=TaskQueue(name=CONTROL_QUEUE), task_queue_type=kind
        )
        while not await _has_pollers(client, request):
            await asyncio.sleep(POLL_SECONDS)


async def _has_pollers(client: Client, request: DescribeTaskQueueRequest) -> bool:
    try:
        return bool((await client.workflow_service.describe_task_queue(request)).pollers)
    except RPCError as problem:
        _raise_unless_starting(problem)
        return False


def _raise_unless_starting(problem: RPCError) -> None:
    """A server that has just started refuses for a second or so: its parts and its namespace come up one by one.

    ALREADY_EXISTS: another stack on the same server was faster.
    """
    if problem.status not in {
        RPCStatusCode.NOT_FOUND,
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.ALREADY_EXISTS,
        RPCStatusCode.UNKNOWN,
    }:
        raise problem


async def _connect(address: str, namespace: str) -> Client:
    while True:
        try:
            return await Client.connect(address, namespace=namespace)
        except RuntimeError:  # how the client says that nobody listens there yet
            await asyncio.sleep(POLL_SECONDS)
