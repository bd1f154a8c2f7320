"""What the control worker does for all its activities: it beats for them, and calls AWS in threads of its own."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities import aws, beating
from activities.beating import BEAT
from tests.patience import PATIENCE
from workflows import options
from workflows.options import SILENCE


class Waits(ActivityInboundInterceptor):
    """An activity that ends once it has beaten twice."""

    def __init__(self) -> None:  # there is no next one
        self.beats: list[object] = []

    async def execute_activity(self, input: ExecuteActivityInput) -> str:
        async with asyncio.timeout(PATIENCE):
            while len(self.beats) < 2:
                await asyncio.sleep(0.01)
        return "done"


async def test_whatever_an_activity_waits_for_it_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beating, "BEAT", 0.02)
    environment, waits = ActivityEnvironment(), Waits()
    environment.info = replace(environment.info, heartbeat_timeout=SILENCE)
    environment.on_heartbeat = lambda *details: waits.beats.append(details)
    served = beating.Beating().intercept_activity(waits)
    nothing = ExecuteActivityInput(fn=asyncio.sleep, args=[], executor=None, headers={})
    assert await environment.run(served.execute_activity, nothing) == "done"


def test_what_a_job_waits_for_is_begun_anew_soon_when_its_control_worker_dies() -> None:
    waited_for = [options.LOOK, options.CONFIGURATION, options.VOLUME, options.MOVE, options.GLANCE]
    known_after = [one.get("heartbeat_timeout", one["start_to_close_timeout"]) for one in waited_for]
    assert max(known_after) <= SILENCE
    assert SILENCE.total_seconds() > BEAT * 3


async def test_while_aws_does_not_answer_the_records_are_written() -> None:
    """And as many calls are out at once as are asked for: jobs that ask together do not wait for each other."""
    out, answers = threading.Semaphore(0), threading.Event()

    def hang() -> None:
        out.release()
        assert answers.wait(PATIENCE)

    calls = [asyncio.create_task(aws.call("hang", hang)) for _ in range(20)]
    try:
        for _ in calls:
            assert await asyncio.to_thread(out.acquire, timeout=PATIENCE)
        assert await asyncio.to_thread(int) == 0
    finally:
        answers.set()
        await asyncio.gather(*calls)
