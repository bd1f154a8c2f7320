"""What a job's life costs in history events, on a real server. A figure that grows here is paid by every job there is.

Each part may cost what it does today (63, 5, 19, 91, 30) and, but for the cycle, one or two records more: changes that
come together are gathered, and how many do depends on the machine.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from perdure.contracts.protection import ReportKind
from perdure.domain.checkpoints import CheckpointKind
from perdure.domain.configuration import CheckpointConfiguration, SystemConfiguration
from tests.workflows.story import Story
from tests.workflows.test_reclaims import reclaimed
from workflows import job_reports

START, CYCLE, WISH, RECLAIM, END = 78, 5, 31, 118, 42
"""Events. A start: from `attach` until the job runs and Batch has been asked once. A reclaim: from the notice until the
job runs elsewhere. An end: from the exit until the workflow is closed."""
GATHERED = 1.3
"""Seconds: timers that run no longer are the workflow's own, which gathers changes for a second."""


async def events(story: Story) -> Counter[str]:
    """How many there are of each type. Not counted: tasks that a busy machine did not end in time, which were begun
    anew."""
    history = (await story.handle.fetch_history()).events
    lost = {_task_of(event) for event in history if _type(event) in {"WORKFLOW_TASK_FAILED", "WORKFLOW_TASK_TIMED_OUT"}}
    return Counter(_type(event) for event in history if not lost or _task_of(event) not in lost)


async def settled(story: Story) -> Counter[str]:
    """The same, once all has followed that follows without a new cause: what is gathered is in the records."""

    async def quiet() -> bool:
        found = (await story.handle.describe()).raw_description
        return (
            not found.pending_activities
            and not found.HasField("pending_workflow_task")
            and not _short_timers((await story.handle.fetch_history()).events)
        )

    await story.until(quiet)
    return await events(story)


def _type(event: HistoryEvent) -> str:
    return EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")


def _task_of(event: HistoryEvent) -> int:
    """Of an event of a workflow task, the one with which that was scheduled; else 0."""
    if _type(event) == "WORKFLOW_TASK_SCHEDULED":
        return event.event_id
    attributes = getattr(event, event.WhichOneof("attributes") or "")
    return attributes.scheduled_event_id if _type(event).startswith("WORKFLOW_TASK_") else 0


def _short_timers(history: Sequence[HistoryEvent]) -> set[str]:
    """Those that still run."""
    running: set[str] = set()
    for event in history:
        started = event.timer_started_event_attributes
        if _type(event) == "TIMER_STARTED" and started.start_to_fire_timeout.ToTimedelta().total_seconds() <= GATHERED:
            running.add(started.timer_id)
        running.discard(event.timer_fired_event_attributes.timer_id)
        running.discard(event.timer_canceled_event_attributes.timer_id)
    return running


async def test_what_a_cycle_costs(real_story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    story = real_story
    monkeypatch.setattr(job_reports, "SOON", timedelta(seconds=2))
    story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=3600))
    await story.run_on("i-1", "zone-a")
    asked = story.cloud.calls.count("describe_job")
    await story.until(lambda: story.cloud.calls.count("describe_job") > asked)  # Batch is asked once
    begun = await settled(story)
    assert begun.total() <= START, begun
    node = story.nodes["i-1"]
    for number in range(3):
        await settled(story)
        await asyncio.sleep(GATHERED)  # what comes sooner after a record waits for the next
        taken = await node.commit(CheckpointKind.PERIODIC)
        await story.report(ReportKind.CHECKPOINT, "i-1", 1, checkpoint=taken)
        await story.until(lambda n=number: story.cloud.kinds(story.job_id).count("checkpoint") == n + 1)
    cycles = await settled(story) - begun
    assert cycles.total() <= 3 * CYCLE, cycles
    assert cycles["MARKER_RECORDED"] == cycles["WORKFLOW_EXECUTION_SIGNALED"] == 3, "a signal, a task, a record"


async def test_what_a_wish_costs(real_story: Story) -> None:
    story = real_story
    await story.run_on("i-1", "zone-a")
    begun = await settled(story)
    assert (await story.wish("w-1")).checkpoint is not None
    wish = await settled(story) - begun
    assert wish.total() <= WISH, wish
    assert story.cloud.calls.count("record_job") <= 5, "one start and one wish; it was 8"


async def test_what_a_reclaim_and_an_end_cost(real_story: Story) -> None:
    story = real_story
    await story.run_on("i-1", "zone-a")
    begun = await settled(story)
    await reclaimed(story, "i-1")
    node = story.nodes["i-1"]
    await story.run_on("i-2", "zone-b", 2, restored_from=1, found=node.taken)
    moved = await settled(story)
    assert (moved - begun).total() <= RECLAIM, moved - begun
    await story.ends()
    end = await events(story) - moved
    assert end.total() <= END, end
