"""One job's week on the time-skipping server: a checkpoint a minute, 30 reclaims. How long do histories get?"""

from __future__ import annotations

import time
from datetime import timedelta

from perdure.contracts import names
from perdure.contracts.protection import ReportKind
from perdure.domain.checkpoints import CheckpointKind
from perdure.domain.configuration import CheckpointConfiguration, SystemConfiguration
from tests.workflows.conftest import skipping_time
from tests.workflows.story import Story
from tests.workflows.test_reclaims import ENDED_BY_US

RECLAIMS = 30


async def week(days: float) -> None:
    """Play it, and print a Markdown line."""
    begun = time.time()
    stays = RECLAIMS + 1
    minutes = round(days * 24 * 60 / stays)
    async with skipping_time() as environment, Story.begin(environment.client, environment) as story:
        story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=60))
        lengths: dict[str, int] = {}
        found = []
        for stay in range(1, stays + 1):
            instance = f"i-{stay}"
            node = await story.node(instance)
            node.first_number = found[-1].number + 1 if found else 1
            restored = found[-1].number if found else None
            await story.run_on(instance, "zone-a", stay, restored_from=restored, found=found[-1:])
            for _ in range(minutes):
                await environment.sleep(timedelta(seconds=60))
                taken = await node.commit(CheckpointKind.PERIODIC)
                await story.report(ReportKind.CHECKPOINT, instance, node.epoch, checkpoint=taken)
            described = await story.handle.describe()
            lengths[described.run_id or ""] = described.history_length
            if stay < stays:
                await story.notice(instance)
                await story.until(lambda node=node: node.taken[-1].kind is CheckpointKind.FINAL)
                await story.happens("handed over")
                await story.until(lambda: story.cloud.volumes["vol-1"].attached_to is None)
                found = node.taken[-2:]
                story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **ENDED_BY_US)
                await story.lose(instance)
        job = await story.job()
        longest, runs = 0, 0
        described = await story.handle.describe()
        run_id = described.run_id
        while run_id:
            handle = story.client.get_workflow_handle(names.job_workflow_id(story.job_id), run_id=run_id)
            history = await handle.fetch_history()
            longest, runs = max(longest, len(history.events)), runs + 1
            first = history.events[0].workflow_execution_started_event_attributes
            run_id = first.continued_execution_run_id
        print(
            f"{days:g} days: {job.checkpoints_committed} checkpoints, {job.protections} reclaims survived, "
            f"{runs} histories, the longest of {longest} events; played in {time.time() - begun:.0f} s"
        )
