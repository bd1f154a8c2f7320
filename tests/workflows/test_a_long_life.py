"""However long a job lives and however often it moves, its history stays short."""

from __future__ import annotations

from tests.workflows.long_life import LongStory, live
from workflows.options import RENEW_AFTER

RECLAIM = 150
"""Events that may come before a history that is long enough is ended: not within a reclaim."""


async def test_a_history_stays_short_for_hours_and_through_reclaims() -> None:
    async with LongStory.alone() as story:
        life = await live(story, days=0.2, reclaims=2)
    assert life.job.protections == 2 and life.job.checkpoints_committed == life.checkpoints >= 280
    assert max(life.events) <= RENEW_AFTER + RECLAIM, life.events
    assert sum(life.events) / life.checkpoints < 8, "renewal and reclaims included"
    timeline = [event.sequence for event in story.cloud.timeline(story.job_id)]
    assert timeline == list(range(1, len(timeline) + 1)), "nothing is lost where one history ends"
