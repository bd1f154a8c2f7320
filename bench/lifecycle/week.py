"""A week: one job with a checkpoint a minute and 30 reclaims, on a server that skips time.

The test of a long life (tests/workflows/long_life.py), for longer: its agents, Batch and EC2 are the tests'. What
counts is that no history grows with the job's age.
"""

from __future__ import annotations

import time

from tests.workflows.long_life import LongStory, live

RECLAIMS = 30


async def a_week(days: float) -> dict[str, float]:
    """What came of it, by what it is called."""
    begun = time.time()
    async with LongStory.alone() as story:
        life = await live(story, days, RECLAIMS)
    assert life.job.protections == RECLAIMS and life.job.checkpoints_committed == life.checkpoints
    return {
        "days": days,
        "checkpoints": life.checkpoints,
        "reclaims": RECLAIMS,
        "histories": len(life.events),
        "events in all": sum(life.events),
        "events of the longest": max(life.events),
        "KB of the largest": max(life.sizes) / 1000,
        "seconds it took": time.time() - begun,
    }
