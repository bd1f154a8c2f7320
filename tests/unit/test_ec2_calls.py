"""The account's EC2 limits: who comes first, what happens when EC2 refuses, and how looks are gathered."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any

import pytest
from botocore.exceptions import ClientError

from activities.ec2_calls import MOST_AT_ONCE, Lookup, Mutations, Urgency, growing
from perdure.domain.errors import CloudUnavailable, VolumeFailed


class Time:
    """Passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "DetachVolume")


async def test_the_nearest_deadline_comes_first_and_what_can_wait_last() -> None:
    time, done = Time(), []
    budget = Mutations(1.0, 1.0, time, time.sleep)
    soon = datetime.now(UTC) + timedelta(hours=1)

    async def turn(name: str, urgency: Urgency, deadline: datetime | None = None) -> None:
        await budget._turn(urgency, deadline)  # the call itself runs in a thread, in whatever order
        done.append((name, time.now))

    await asyncio.gather(
        turn("snapshot", Urgency.WHENEVER),
        turn("delete", Urgency.WHENEVER),
        turn("attach", Urgency.JOB_WAITS),
        turn("late", Urgency.BY_DEADLINE, soon + timedelta(seconds=9)),
        turn("soon", Urgency.BY_DEADLINE, soon),
        turn("past", Urgency.BY_DEADLINE, soon - timedelta(hours=2)),
        turn("another attach", Urgency.JOB_WAITS),
    )
    assert [name for name, _ in done] == ["soon", "late", "attach", "past", "another attach", "snapshot", "delete"]
    assert time.now == 6.0 and budget.waiting == 0


async def test_what_ec2_refuses_is_tried_again_more_slowly_and_the_rate_comes_back() -> None:
    time = Time()
    budget = Mutations(4.0, 1.0, time, time.sleep)
    refused = [refusal("RequestLimitExceeded") for _ in range(5)]
    tried: list[float] = []

    def detach() -> str:
        tried.append(time.now)
        if refused:
            raise refused.pop()
        return "detaching"

    assert await budget.call("detach", Urgency.BY_DEADLINE, detach) == "detaching"
    gaps = [after - before for before, after in pairwise(tried)]
    assert len(tried) == 6 and all(after >= before - 0.01 for before, after in pairwise(gaps))
    assert gaps[-1] <= 2.51, "never slower than a tenth of the usual rate"
    time.now += 60
    begun = time.now
    for _ in range(5):
        await budget.call("attach", Urgency.JOB_WAITS, lambda: None)
    assert time.now - begun == pytest.approx(1.0, abs=0.3)


async def test_any_other_refusal_is_the_callers() -> None:
    time = Time()
    budget = Mutations(4.0, 1.0, time, time.sleep)

    def fail(code: str) -> Any:
        raise refusal(code)

    with pytest.raises(VolumeFailed, match="IncorrectState"):
        await budget.call("detach", Urgency.WHENEVER, fail, code="IncorrectState")
    with pytest.raises(CloudUnavailable, match="InternalError"):
        await budget.call("detach", Urgency.WHENEVER, fail, code="InternalError")


async def test_who_is_cancelled_takes_no_turn() -> None:
    time = Time()
    budget = Mutations(1.0, 1.0, time, time.sleep)
    gone = asyncio.create_task(budget.call("gone", Urgency.BY_DEADLINE, lambda: None))
    await asyncio.sleep(0)
    gone.cancel()
    await budget.call("here", Urgency.WHENEVER, lambda: None)
    assert time.now == 0.0


async def test_looks_are_gathered_into_one_call() -> None:
    asked: list[list[str]] = []

    async def describe(names: list[str]) -> dict[str, dict[str, Any]]:
        asked.append(names)
        return {name: {"VolumeId": name} for name in names if name != "vol-none"}

    looks = Lookup(describe, 0.01)
    names = [f"vol-{number}" for number in range(MOST_AT_ONCE + 5)] + ["vol-none", "vol-1"]
    found = await asyncio.gather(*(looks.one(name) for name in names))
    assert found[0] == {"VolumeId": "vol-0"} and found[-2] is None and found[-1] == {"VolumeId": "vol-1"}
    assert [len(some) for some in asked] == [MOST_AT_ONCE, 6]
    assert await looks.one("vol-7") == {"VolumeId": "vol-7"} and len(asked) == 3


async def test_the_more_look_the_more_share_a_call() -> None:
    """300 jobs whose volumes change their state at once, each by itself: as many calls as the bucket has, no more."""
    time, calls = Time(), 0

    async def describe(names: list[str]) -> dict[str, dict[str, Any]]:
        nonlocal calls
        calls += 1
        return {name: {} for name in names}

    looks = Lookup(describe, 0.01, 5.0, 20.0, time, time.sleep)

    async def job(number: int) -> None:
        for pause in islice(growing(1.0), 10):
            await looks.one(f"vol-{number}")
            await time.sleep(pause / 300)  # the time passes for all of them

    await asyncio.gather(*(job(number) for number in range(300)))
    assert calls <= 2 * (20 + 5 * time.now) + 2, "two for each look: 300 ids do not fit into one call"
    begun, alone = time.now, calls
    time.now += 60
    for pause in islice(growing(1.0), 10):
        await looks.one("vol-1")
        time.now += pause
    assert calls - alone == 10 and time.now - begun - 60 < 4.5, "one job alone never waits for the bucket"


def test_what_changes_is_looked_at_soon_and_then_more_seldom() -> None:
    pauses = list(islice(growing(1.0), 30))
    assert pauses[0] == 0.1 and pauses[-1] == 1.0 and pauses == sorted(pauses)
    waited = 0.0
    for pause in pauses:
        assert pause <= 0.1 + 0.3 * waited + 1e-9
        waited += pause
    assert list(islice(growing(0.01), 2)) == [0.01, 0.01]


async def test_a_look_that_fails_fails_for_all_who_asked_and_not_for_the_next() -> None:
    broken = True

    async def describe(names: list[str]) -> dict[str, dict[str, Any]]:
        if broken:
            raise CloudUnavailable("away")
        return {name: {} for name in names}

    looks = Lookup(describe, 0.01)
    answers = await asyncio.gather(looks.one("a"), looks.one("b"), return_exceptions=True)
    assert all(isinstance(answer, CloudUnavailable) for answer in answers)
    broken = False
    assert await looks.one("a") == {}
