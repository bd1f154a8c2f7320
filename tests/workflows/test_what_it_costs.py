"""What a job's life costs in history events, on a real server. A figure that grows here is paid by every job there is.

Each part may cost what it does today (63, 5, 19, 91, 30) and, but for the cycle, one or two records more: changes that
come together are gathered, and how many do depends on the machine.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from temporalio.api.enums.v1 import EventType

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
"""Seconds after which changes that are gathered are in the records."""


async def events(story: Story) -> Counter[str]:
    """How many there are of each type."""
    history = await story.handle.fetch_history()
    return Counter(EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in history.events)


async def test_what_a_cycle_costs(real_story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    story = real_story
    monkeypatch.setattr(job_reports, "SOON", timedelta(seconds=2))
    story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=3600))
    await story.run_on("i-1", "zone-a")
    asked = story.cloud.calls.count("describe_job")
    await story.until(lambda: story.cloud.calls.count("describe_job") > asked)  # Batch is asked once
    await asyncio.sleep(GATHERED)
    begun = await events(story)
    assert begun.total() <= START, begun
    node = story.nodes["i-1"]
    for number in range(3):
        await asyncio.sleep(GATHERED)
        taken = await node.commit(CheckpointKind.PERIODIC)
        await story.report(ReportKind.CHECKPOINT, "i-1", 1, checkpoint=taken)
        await story.until(lambda n=number: story.cloud.kinds(story.job_id).count("checkpoint") == n + 1)
    await asyncio.sleep(GATHERED)
    cycles = await events(story) - begun
    assert cycles.total() <= 3 * CYCLE, cycles
    assert cycles["MARKER_RECORDED"] == cycles["WORKFLOW_EXECUTION_SIGNALED"] == 3, "a signal, a task, a record"


async def test_what_a_wish_costs(real_story: Story) -> None:
    story = real_story
    await story.run_on("i-1", "zone-a")
    await asyncio.sleep(GATHERED)
    begun = await events(story)
    assert (await story.wish("w-1")).checkpoint is not None
    await asyncio.sleep(GATHERED)
    wish = await events(story) - begun
    assert wish.total() <= WISH, wish
    assert story.cloud.calls.count("record_job") <= 5, "one start and one wish; it was 8"


async def test_what_a_reclaim_and_an_end_cost(real_story: Story) -> None:
    story = real_story
    await story.run_on("i-1", "zone-a")
    await asyncio.sleep(GATHERED)
    begun = await events(story)
    await reclaimed(story, "i-1")
    node = story.nodes["i-1"]
    await story.run_on("i-2", "zone-b", 2, restored_from=1, found=node.taken)
    await asyncio.sleep(GATHERED)
    moved = await events(story)
    assert (moved - begun).total() <= RECLAIM, moved - begun
    await story.ends()
    end = await events(story) - moved
    assert end.total() <= END, end
