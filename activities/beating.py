"""All activities of the control worker beat by themselves, as long as they run.

So a control worker that dies or is cut off is known to be gone after `options.SILENCE`, whatever it was waiting for,
and what it did is begun anew: every activity is idempotent. A cancellation comes with the answer to a beat.
"""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

BEAT = 3.0
"""Seconds between two beats. Most activities have ended before the first."""


class Beating(Interceptor):
    """For the control worker."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """As Temporal asks for it."""
        return _Beats(super().intercept_activity(next))


class _Beats(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        if activity.info().heartbeat_timeout is None:
            return await super().execute_activity(input)
        beats = asyncio.create_task(_beat())
        try:
            return await super().execute_activity(input)
        finally:
            beats.cancel()


async def _beat() -> None:
    while True:
        await asyncio.sleep(BEAT)
        activity.heartbeat()
