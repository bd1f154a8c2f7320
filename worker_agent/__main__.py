"""`python -m worker_agent`: the agent of one instance. Settings come from the environment (perdure/settings.py)."""

from __future__ import annotations

from perdure import garbage

if __name__ == "__main__":
    garbage.none_while_loading()

import asyncio
import contextlib
import logging
import os
import signal
import sys

from temporalio.common import MetricGauge

from perdure.leaving import leave
from perdure.logs import configure_logs
from perdure.settings import AgentSettings, connect_temporal
from perdure.telemetry import set_up
from perdure.tracing import begin_tracing
from worker_agent.agent import Agent

_TELL_SECONDS = 5.0


async def _run(settings: AgentSettings) -> None:
    main = asyncio.current_task()
    assert main is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, main.cancel)
    # The SDK's own log tells of every retried call; what matters of it comes back as errors to us.
    runtime = set_up(settings.metrics_address, quiet=True)
    tracing = begin_tracing(settings.tracing, "agent")
    agent = Agent(settings, await connect_temporal(interceptors=tracing.interceptors()), tracing)
    waiting = runtime.metric_meter.create_gauge("perdure_spool_messages", "Messages that wait for Temporal")
    telling = asyncio.create_task(_tell(agent, waiting)) if settings.metrics_address else None
    with contextlib.suppress(asyncio.CancelledError):
        await agent.run()
    if telling is not None:
        telling.cancel()


async def _tell(agent: Agent, waiting: MetricGauge) -> None:
    while True:
        waiting.set(agent.undelivered())
        await asyncio.sleep(_TELL_SECONDS)


def main() -> int:
    """Run until SIGTERM or SIGINT. Exit code 2 when not root: freezing and mounting need it."""
    if os.geteuid() != 0:
        sys.stderr.write("worker_agent: must run as root (it mounts volumes and freezes containers)\n")
        return 2
    settings = AgentSettings()
    configure_logs(settings.log_level, settings.log_file)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell of each request
    asyncio.run(_run(settings))
    return 0


if __name__ == "__main__":
    garbage.keep_what_is_loaded()
    leave(main())
