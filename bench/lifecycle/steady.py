"""Steady: agents report committed checkpoints, evenly, at the rate of that many jobs with that interval.

The jobs' workflows begin in the state in which continue-as-new would start them, running and with a volume, so that an
hour of starts need not be waited for. It is a window of the steady state, not a compressed one. A report's latency
counts from when it is sent until its record is in the database. A backlog shows as latency that rises, and as tasks
that wait when the window ends.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

from temporalio.client import Client

from bench.lifecycle.agents import Agent
from bench.lifecycle.bed import Bed
from bench.lifecycle.figures import percentile
from perdure.domain.checkpoints import CheckpointKind


async def steady(bed: Bed, client: Client, agents: list[Agent], seconds: float, interval: float) -> dict[str, float]:
    """Checkpoints at the rate of all agents together, for so long."""
    rate = len(agents) / interval
    count = max(20, round(rate * seconds))
    window = count / rate
    known, cpu, begun = len(bed.recorded()), bed.cpu(), time.time()
    sending: list[asyncio.Task[Any]] = []
    for number, agent in zip(range(count), itertools.cycle(agents), strict=False):
        await asyncio.sleep(max(0.0, begun + number / rate - time.time()))
        sending.append(asyncio.create_task(agent.commit(CheckpointKind.PERIODIC)))
        if time.time() - begun > 1.5 * window:
            break
    await asyncio.gather(*sending)
    took, used, backlog = time.time() - begun, bed.cpu(), await bed.backlog(client)
    await asyncio.sleep(3)
    latencies = [recorded - sent for kind, _, sent, recorded in bed.recorded()[known:] if kind == "checkpoint"]
    half = len(latencies) // 2
    return {
        "rate": len(sending) / took,
        "took": took,
        "sent": len(sending),
        "recorded": len(latencies),
        "control": (used["control"] - cpu["control"]) / took,
        "server": (used["server"] - cpu["server"]) / took,
        "agents": (used["agents"] - cpu["agents"]) / took,
        "each_ms": 1000 * (used["control"] - cpu["control"]) / max(1, len(sending)),
        "p50": percentile(latencies, 0.5),
        "p99": percentile(latencies, 0.99),
        "early": percentile(latencies[:half], 0.5),
        "late": percentile(latencies[half:], 0.5),
        "backlog": backlog,
    }
