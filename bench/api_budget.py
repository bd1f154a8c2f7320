"""300 volumes are reclaimed within one minute, and EC2 takes five mutating calls a second: how many are safe in time?

    .venv/bin/python bench/api_budget.py [RUNS]

Safe: `available` before the instance goes, so that the next attempt need not wait for a dead host. Compared, on the
same drawn scenario each time: `activities.ec2_calls.Mutations` (one budget, nearest deadline first) and a naive order
(each call at once; refused ones tried again as botocore and then Temporal do). EC2 is played by a token bucket; time
runs 20 times as fast, for both. Prints medians and the range over the runs.
"""

from __future__ import annotations

import asyncio
import logging
import random
import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from activities import aws
from activities.ec2_calls import RECOVERY_SECONDS, Mutations, Urgency
from perdure.domain.errors import CloudThrottled

SPEED = 20.0
VOLUMES, WITHIN, NOTICE = 300, 60.0, 120.0
PER_SECOND, BURST = 5.0, 10.0
DETACH_SECONDS = 5.0
DUMP, RETRY = (20.0, 100.0), (10.0, 60.0)
OTHER_ZONE = 1 / 3
BACKGROUND_PER_SECOND = 1.0
"""Zone snapshots of other jobs, begun and deleted."""
END = 400.0

Call = Callable[[Urgency, datetime | None], Coroutine[Any, Any, None]]


class Account:
    """EC2's bucket for mutating calls."""

    def __init__(self) -> None:
        self._tokens, self._at = BURST, time.monotonic()
        self.refused = 0

    def change(self) -> None:
        """One mutating call. ClientError RequestLimitExceeded when it is one too many."""
        now = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._at) * PER_SECOND * SPEED)
        self._at = now
        if self._tokens < 1:
            self.refused += 1
            raise ClientError({"Error": {"Code": "RequestLimitExceeded", "Message": ""}}, "Change")
        self._tokens -= 1


@dataclass
class Result:
    """Of one run: volumes that were safe in time, seconds that jobs waited for their volume's calls, refused calls."""

    safe: int = 0
    waits: list[float] = field(default_factory=list)
    refused: int = 0


async def sleep(seconds: float) -> None:
    """So many seconds of the scenario."""
    await asyncio.sleep(seconds / SPEED)


def budget(account: Account) -> Call:
    """As the product does it."""
    mutations = Mutations(PER_SECOND * SPEED, BURST, recovery_seconds=RECOVERY_SECONDS / SPEED)

    async def call(urgency: Urgency, deadline: datetime | None) -> None:
        await mutations.call("change", urgency, account.change, deadline=deadline)

    return call


def naive(account: Account, draw: random.Random) -> Call:
    """Each call at once; three tries by botocore's standard mode, then Temporal's retries."""

    async def call(urgency: Urgency, deadline: datetime | None) -> None:
        pause = 1.0
        while True:
            for attempt in range(3):
                try:
                    await aws.call("change", account.change)
                except CloudThrottled:
                    if attempt < 2:
                        await sleep(draw.random() * 2**attempt)
                else:
                    return
            await sleep(pause)
            pause = min(15.0, pause * 2)

    return call


async def run(make: Callable[[Account], Call], seed: int) -> Result:
    """One scenario."""
    draw, account, result = random.Random(seed), Account(), Result()
    call, begin = make(account), datetime.now(UTC)

    async def volume(at: float, dump: float, retry: float, other_zone: bool) -> None:
        await sleep(at + dump)
        deadline = begin + timedelta(seconds=(at + NOTICE) / SPEED)
        await call(Urgency.BY_DEADLINE, deadline)
        if datetime.now(UTC) + timedelta(seconds=DETACH_SECONDS / SPEED) <= deadline:
            result.safe += 1
        await sleep(retry)
        asked = time.monotonic()
        for _ in range(3 if other_zone else 1):  # snapshot, volume, attach; or the attach alone
            await call(Urgency.JOB_WAITS, None)
        result.waits.append((time.monotonic() - asked) * SPEED)
        for _ in range(2 if other_zone else 0):  # the old volume and the old snapshot go
            await call(Urgency.WHENEVER, None)

    async def background() -> None:
        calls = []
        for _ in range(int(END * BACKGROUND_PER_SECOND)):
            calls.append(asyncio.create_task(call(Urgency.WHENEVER, None)))
            await sleep(1 / BACKGROUND_PER_SECOND)

    beside = asyncio.create_task(background())
    draws = [
        (draw.uniform(0, WITHIN), draw.uniform(*DUMP), draw.uniform(*RETRY), draw.random() < OTHER_ZONE)
        for _ in range(VOLUMES)
    ]
    await asyncio.gather(*(volume(*one) for one in draws))
    beside.cancel()
    result.refused = account.refused
    return result


def main() -> None:
    """Print one line for each order."""
    logging.disable(logging.WARNING)
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(f"{VOLUMES} volumes reclaimed within {WITHIN:g} s, {PER_SECOND:g} mutating calls a second, {runs} runs")
    for name in ("budget", "naive"):
        found = []
        for seed in range(runs):
            choice = budget if name == "budget" else lambda account, seed=seed: naive(account, random.Random(seed))
            found.append(asyncio.run(run(choice, seed)))
        safe = [one.safe for one in found]
        waits = [statistics.median(one.waits) for one in found]
        most = [max(one.waits) for one in found]
        refused = [one.refused for one in found]
        print(
            f"{name:>7}: safe in time {statistics.median(safe):.0f} of {VOLUMES} ({min(safe)} to {max(safe)});"
            f" a job's calls took {statistics.median(waits):.1f} s, at most {max(most):.0f} s;"
            f" {statistics.median(refused):.0f} calls refused"
        )


if __name__ == "__main__":
    main()
