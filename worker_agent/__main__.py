"""`python -m worker_agent`: the agent of one instance. Settings come from the environment (perdure/settings.py)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys

from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

from perdure.logs import configure_logs
from perdure.settings import AgentSettings, connect_temporal
from worker_agent.agent import Agent


async def _run(settings: AgentSettings) -> None:
    main = asyncio.current_task()
    assert main is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, main.cancel)
    # The SDK's own log tells of every retried call; what matters of it comes back as errors to us.
    quiet = LoggingConfig(filter=TelemetryFilter(core_level="ERROR", other_level="ERROR"))
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=quiet)))
    agent = Agent(settings, await connect_temporal())
    with contextlib.suppress(asyncio.CancelledError):
        await agent.run()


def main() -> int:
    """Run until SIGTERM or SIGINT. Exit code 2 when not root: freezing and mounting need it."""
    if os.geteuid() != 0:
        sys.stderr.write("worker_agent: must run as root (it mounts volumes and freezes containers)\n")
        return 2
    settings = AgentSettings()
    configure_logs(settings.log_level, settings.log_file)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell of two requests a second
    asyncio.run(_run(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
