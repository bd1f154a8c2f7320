"""One job's week on the time-skipping server: a checkpoint a minute, 30 reclaims. How long do histories get?"""

from __future__ import annotations

import time

from perdure.contracts import names
from perdure.contracts.protection import ReportKind
from perdure.domain.checkpoints import CheckpointKind
from perdure.domain.configuration import CheckpointConfiguration, SystemConfiguration
from tests.fakes import RETRY_ALL
from tests.workflows.conftest import skipping_time
from tests.workflows.story import Story
from tests.workflows.test_reclaims import ENDED_BY_US

RECLAIMS = 30
A_MINUTE = 62.3
"""Seconds. Not to the instant at which a timer of the workflow is due: see Story.sleep."""


async def week(days: float) -> None:
    """Play it, and print a Markdown line."""
    begun = time.time()
    stays = RECLAIMS + 1
    minutes = round(days * 24 * 3600 / A_MINUTE / stays)
    async with skipping_time() as environment, Story.begin(environment.client, environment) as story:
        story.cloud.configuration = SystemConfiguration(checkpoint=CheckpointConfiguration(interval_seconds=3600))
        # More than Batch allows in one job: each of these reclaims takes an attempt.
        story.cloud.job(story.job_id, retry=RETRY_ALL.model_copy(update={"attempts": 2 * stays}))
        found = []
        for stay in range(1, stays + 1):
            # Two instances in turn: each has pollers, and this server takes only so many.
            instance = f"i-{stay % 2}"
            node = await story.node(instance)
            node.taken = []
            node.first_number = found[-1].number + 1 if found else 1
            restored = found[-1].number if found else None
            await story.run_on(
                instance, "zone-a", stay, container=f"container-{stay}", restored_from=restored, found=found[-1:]
            )
            for _ in range(minutes):
                await story.sleep(A_MINUTE)
                taken = await node.commit(CheckpointKind.PERIODIC)
                await story.report(ReportKind.CHECKPOINT, instance, node.epoch, checkpoint=taken)
            if stay < stays:
                await story.notice(instance)
                await story.until(lambda node=node: node.taken[-1].kind is CheckpointKind.FINAL)
                await story.until(lambda stay=stay: story.cloud.kinds(story.job_id).count("handed over") == stay)
                await story.until(lambda: story.cloud.volumes["vol-1"].attached_to is None)
                found = node.taken[-2:]
                story.cloud.attempt_over(story.job_id, "RUNNABLE", await story.now(), **ENDED_BY_US)
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
