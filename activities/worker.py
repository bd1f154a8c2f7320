"""How the control worker is set up, whatever it serves: how many workflows it keeps in memory, and what each takes."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TypedDict

from temporalio.contrib.pydantic import PydanticPayloadConverter
from temporalio.worker import (
    Interceptor,
    UnsandboxedWorkflowRunner,
    WorkflowInstance,
    WorkflowInstanceDetails,
    WorkflowRunner,
)

from activities.beating import BEAT, Beating

TASKS_AT_ONCE = 20
"""Each has a thread, and a thread has memory of its own (500 by default). Python runs one at a time anyway."""

STICKY = timedelta(seconds=5)
"""How long the task of a workflow waits for the control worker that has it in memory, before another may take it; 10 by
default. So much longer each job waits after the death of its control worker. Less would have jobs read from their
histories where one is merely busy: at load 34, with 100 instances noticed at once, tasks waited for 3.6 s."""


class OneConverter(UnsandboxedWorkflowRunner):
    """Runs workflows with one payload converter for all. Temporal makes one for each workflow that is open, and every
    one builds pydantic's validators anew: 20 KB a job.

    Outside Temporal's sandbox, which makes a copy of the workflow's module for each job that is open. What it guards
    against is guarded otherwise: workflows import nothing that reaches out (import-linter), recorded histories are
    replayed, and the tests of the workflows run inside it.
    """

    def __init__(self) -> None:
        self._converter = PydanticPayloadConverter()

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """As Temporal asks for it."""
        return super().create_instance(dataclasses.replace(det, payload_converter_factory=lambda: self._converter))


class WorkerOptions(TypedDict):
    """Keyword arguments of Temporal's Worker."""

    max_concurrent_activities: int
    max_cached_workflows: int
    max_concurrent_workflow_tasks: int
    max_heartbeat_throttle_interval: timedelta
    sticky_queue_schedule_to_start_timeout: timedelta
    workflow_runner: WorkflowRunner
    interceptors: list[Interceptor]


def worker_options(cached_workflows: int) -> WorkerOptions:
    """`cached_workflows`: how many open workflows stay in memory. Others are read from their history at their next
    event."""
    return WorkerOptions(
        # A volume activity waits for its turn and for EC2. Whose turn comes first is decided among those that run.
        max_concurrent_activities=2_000,
        max_cached_workflows=cached_workflows,
        max_concurrent_workflow_tasks=TASKS_AT_ONCE,
        # Beats bring cancellations, and are held back for much longer by default.
        max_heartbeat_throttle_interval=timedelta(seconds=BEAT),
        sticky_queue_schedule_to_start_timeout=STICKY,
        workflow_runner=OneConverter(),
        interceptors=[Beating()],
    )
