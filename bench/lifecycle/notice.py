"""Notice: that many nodes with a job each hear their interruption notices within one second.

An agent begins its final checkpoint in the same instant, by itself (here: ten seconds of waiting). Measured is how soon
the workflow has joined it on the node, and how soon after its end the hand-over is in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from bench.lifecycle.agents import DUMP_SECONDS, Agent
from bench.lifecycle.bed import Bed
from bench.lifecycle.figures import percentile


async def reclaim(bed: Bed, agents: list[Agent]) -> dict[str, float]:
    """All their nodes are noticed within one second."""
    known, cpu = len(bed.recorded()), bed.cpu()
    async with contextlib.AsyncExitStack() as stack:
        for agent in agents:
            await stack.enter_async_context(agent.serving())
        await asyncio.sleep(2)
        begun = time.time()
        noticed = []
        for number, agent in enumerate(agents):
            await asyncio.sleep(max(0.0, begun + number / len(agents) - time.time()))
            noticed.append(asyncio.create_task(agent.interrupt()))
        spread = time.time() - begun
        await asyncio.gather(*noticed)
        recorded: dict[str, float] = {}
        ours = {agent.job_id: agent for agent in agents}
        while len(recorded) < len(agents) and time.time() - begun < 120:
            for kind, job_id, _, at in bed.recorded()[known:]:
                if kind == "handed over" and job_id in ours:
                    recorded.setdefault(job_id, at - ours[job_id].noticed_at - DUMP_SECONDS)
            await asyncio.sleep(0.2)
        joined = [agent.joined_at - agent.noticed_at for agent in agents if agent.joined_at]
    used = bed.cpu()
    return {
        "nodes": len(agents),
        "spread": spread,
        "joined": len(joined),
        "joined_p50": percentile(joined, 0.5),
        "joined_max": max(joined, default=float("nan")),
        "recorded": len(recorded),
        "recorded_p50": percentile(list(recorded.values()), 0.5),
        "recorded_max": max(recorded.values(), default=float("nan")),
        "control_cpu": used["control"] - cpu["control"],
        "server_cpu": used["server"] - cpu["server"],
    }
