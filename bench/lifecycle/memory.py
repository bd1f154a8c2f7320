"""Memory: what an open job takes in the control worker, fresh, after more checkpoints, and where it is not kept.

Jobs run, then each commits one checkpoint after another, as quickly as they come. Resident memory is read after each
round; so the growth within a history, and its end by continue-as-new, show. Once with all jobs kept, once with a
quarter of them: the others are read from their history at each event, which costs CPU instead.
"""

from __future__ import annotations

import asyncio
import time

from bench.lifecycle.agents import Agent, start_all
from bench.lifecycle.bed import Bed, made, quiet
from perdure.domain.checkpoints import CheckpointKind

JOBS = 100
ROUNDS = 5
CYCLES = 10
"""Checkpoints of each job in one round."""
GATHERED_SECONDS = 1.1
"""Records of one job come no quicker."""


async def kept_in_memory(in_memory: bool, share: float) -> list[dict[str, float]]:
    """A row for the fresh jobs and for each round: KB a job, and CPU milliseconds a checkpoint."""
    async with made(in_memory, max(1, round(JOBS * share))) as (bed, client):
        warm = [Agent(client, JOBS + number, 900) for number in range(20)]
        await start_all(warm)
        await quiet(bed, client)
        empty = bed.worker.memory_info().rss
        agents = [Agent(client, number, 900) for number in range(JOBS)]
        await start_all(agents)
        await quiet(bed, client)
        rows = [_row(bed, empty, share, 0, 0.0)]
        for number in range(1, ROUNDS + 1):
            used = bed.cpu()["control"]
            for _ in range(CYCLES):
                begun = time.time()
                for agent in agents:
                    await agent.commit(CheckpointKind.PERIODIC)
                while await bed.backlog(client):
                    await asyncio.sleep(0.2)
                await asyncio.sleep(max(0.0, begun + GATHERED_SECONDS - time.time()))
            await quiet(bed, client)
            spent = 1000 * (bed.cpu()["control"] - used) / (CYCLES * JOBS)
            rows.append(_row(bed, empty, share, number * CYCLES, spent))
        return rows


def _row(bed: Bed, empty: int, share: float, cycles: int, spent_ms: float) -> dict[str, float]:
    kilobytes = (bed.worker.memory_info().rss - empty) / 1e3 / JOBS
    return {"share": share, "cycles": cycles, "kb": kilobytes, "ms": spent_ms}
