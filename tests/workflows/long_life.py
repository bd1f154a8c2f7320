"""One job that lives for days: a checkpoint a minute, a reclaim now and then, on a server that skips time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from temporalio.api.testservice.v1 import UnlockTimeSkippingRequest

from perdure.contracts import names
from perdure.domain.configuration import CheckpointConfiguration, SystemConfiguration
from perdure.domain.jobs import Job
from tests.fakes import RETRY_ALL
from tests.workflows.conftest import skipping_time
from tests.workflows.story import Story

BEAT = 59.3
"""Seconds between two checkpoints: a minute, but never at the instant of a timer, which this server does not like
(Story.sleep)."""
STUCK_SECONDS = 2
ENDED_BY_US = {"exit_code": 137, "status_reason": "Essential container in task exited"}


class LongStory(Story):
    """A story in which the server's time passes again and again."""

    @classmethod
    @asynccontextmanager
    async def alone(cls) -> AsyncIterator[LongStory]:
        """On a server of its own, where histories are renewed."""
        async with skipping_time(one_history=False) as environment:
            story = cls(environment.client, environment)
            async with story.begun():
                yield story

    async def job(self) -> Job:
        """As it is recorded: the thousands of questions to the workflow are spared."""
        return self.cloud.recorded(self.job_id)

    async def _let_pass(self, until: datetime) -> None:
        """This server counts who forbids it to skip time, and forgets to count down now and then: it stands still then,
        although nobody has anything to do. Then it is told to go on."""
        left = until - await self.now()
        if left <= timedelta(0):
            return
        passing = asyncio.create_task(self.environment.sleep(left))
        while not (await asyncio.wait([passing], timeout=STUCK_SECONDS))[0]:
            if await self._idle():
                await self.client.test_service.unlock_time_skipping(UnlockTimeSkippingRequest())
        await passing

    async def _idle(self) -> bool:
        found = (await self.handle.describe()).raw_description
        return not found.pending_activities and not found.HasField("pending_workflow_task")


@dataclass
class LongLife:
    """What is left of it."""

    job: Job
    checkpoints: int
    """Taken by the nodes."""
    events: list[int] = field(default_factory=list)
    """Of each run of the workflow, the first run first …"""
    sizes: list[int] = field(default_factory=list)
    """… and the bytes of its history."""


async def live(story: LongStory, days: float, reclaims: int) -> LongLife:
    """Let the job run for so many days on `reclaims` + 1 nodes, in two zones by turns, until it ends by itself."""
    story.cloud.job(story.job_id, retry=RETRY_ALL.model_copy(update={"attempts": reclaims + 2}))
    story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=BEAT))
    stay = days * 86_400 / (reclaims + 1)
    taken = 0
    await story.run_on("i-1", "zone-a")
    for number in range(1, reclaims + 1):
        node = await story.node(f"i-{number}")
        await _stay(story, stay)
        await _taken_back(story, number)
        taken, last = taken + len(node.taken), node.taken[-2:]
        await story.lose(f"i-{number}")
        after = await story.node(f"i-{number + 1}")
        after.first_number = last[-1].number + 1
        zone = "zone-b" if number % 2 else "zone-a"
        await story.run_on(f"i-{number + 1}", zone, number + 1, restored_from=last[-1].number, found=last)
    await _stay(story, stay)
    taken += len(story.nodes[f"i-{reclaims + 1}"].taken)
    await story.lose(f"i-{reclaims + 1}")  # it takes no more checkpoints
    return await _counted(story, await story.ends(), taken)


async def _stay(story: Story, seconds: float) -> None:
    """By the hour: one call of the server must not take long."""
    left = int(seconds)
    while left >= 60:
        part = min(left, 3600) // 60 * 60
        await story.sleep(part + 7.3)
        left -= part


async def _taken_back(story: Story, number: int) -> None:
    """A notice, the final checkpoint, the hand-over, and Batch's retry."""
    await story.notice(f"i-{number}")
    await story.until(lambda: story.cloud.kinds(story.job_id).count("handed over") == number)
    await story.until(lambda: all(volume.attached_to is None for volume in story.cloud.volumes.values()))
    story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **ENDED_BY_US)


async def _counted(story: Story, job: Job, checkpoints: int) -> LongLife:
    """All runs of the workflow, from the last back to the first."""
    life = LongLife(job, checkpoints)
    run: str | None = (await story.handle.describe()).run_id
    while run:
        handle = story.client.get_workflow_handle(names.job_workflow_id(story.job_id), run_id=run)
        history = await handle.fetch_history()
        life.events.insert(0, len(history.events))
        life.sizes.insert(0, sum(event.ByteSize() for event in history.events))
        run = history.events[0].workflow_execution_started_event_attributes.continued_execution_run_id
    return life
