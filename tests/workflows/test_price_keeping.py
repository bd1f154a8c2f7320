"""The workflow that keeps prices and ledgers: when it asks AWS, and which ledgers follow."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from temporalio import activity
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from perdure.contracts import names
from perdure.contracts.prices import (
    LedgersWorkedOut,
    PriceActivities,
    PricedPair,
    PriceKeepingInput,
    PricesRefreshed,
    RefreshPrices,
    WorkOutLedgers,
)
from tests.patience import PATIENCE
from tests.temporal_server import working
from tests.workflows.story import HISTORIES
from workflows import options
from workflows.price_keeping import PriceKeeping

NEW = PricedPair(instance_type="c5.large", zone="us-east-1a")


class FakePrices(PriceActivities):
    """AWS and the records as the workflow sees them."""

    def __init__(self) -> None:
        self.asked: list[bool] = []
        self.worked_out: list[WorkOutLedgers] = []
        self.new: list[PricedPair] = []
        self.problems: list[str] = []
        self.failing = ""
        self.jobs = ["a", "b", "c"]

    @activity.defn(name="refresh_prices")
    async def refresh_prices(self, request: RefreshPrices) -> PricesRefreshed:
        self.asked.append(request.everything)
        if self.failing:
            raise ApplicationError(self.failing, non_retryable=True)
        new, self.new = self.new, []
        return PricesRefreshed(asked=len(new) or int(request.everything), new_pairs=new, problems=self.problems)

    @activity.defn(name="work_out_ledgers")
    async def work_out_ledgers(self, request: WorkOutLedgers) -> LedgersWorkedOut:
        self.worked_out.append(request)
        ids = [name for name in self.jobs if name > request.after][:2]
        return LedgersWorkedOut(jobs=len(ids), after=ids[-1] if len(ids) == 2 else None)


class Keeping:
    """One run of the workflow, whose time the test moves."""

    def __init__(self, environment: WorkflowEnvironment, handle: WorkflowHandle[PriceKeeping, None]) -> None:
        self.environment, self.handle, self.prices = environment, handle, FakePrices()

    async def rounds(self, number: int) -> None:
        """Wait until so many looks are over, letting the server's time pass."""
        async with asyncio.timeout(PATIENCE):
            while len([one for one in self.prices.worked_out if one.after == "b"]) < number:
                await self.environment.sleep(timedelta(seconds=61))

    async def state(self) -> PriceKeepingInput:
        return await self.handle.query(PriceKeeping.state)


@pytest.fixture
async def keeping(environment: WorkflowEnvironment) -> AsyncIterator[Keeping]:
    handle = environment.client.get_workflow_handle(names.PRICE_KEEPING_ID)
    keeping = Keeping(environment, handle)
    async with working(
        Worker(
            environment.client,
            task_queue=names.CONTROL_QUEUE,
            workflows=[PriceKeeping],
            activities=[keeping.prices.refresh_prices, keeping.prices.work_out_ledgers],
        )
    ):
        await environment.client.start_workflow(
            PriceKeeping.run, PriceKeepingInput(), id=names.PRICE_KEEPING_ID, task_queue=names.CONTROL_QUEUE
        )
        yield keeping
        await handle.terminate()


async def test_all_prices_hourly_new_ones_soon_and_ledgers_each_time(keeping: Keeping) -> None:
    await keeping.rounds(2)
    keeping.prices.new = [NEW]
    await keeping.rounds(14)
    asked, first = keeping.prices.asked, [one for one in keeping.prices.worked_out if not one.after]
    assert asked[:13] == [True] + [False] * 11 + [True], "everything at the start and after an hour"
    assert [one.pairs for one in first[1:4]].count([NEW]) == 1, "ledgers of those jobs follow at once"
    assert first[0].since is not None and first[12].since is not None, "those of jobs that ended meanwhile, too"
    assert all(one.since is None for one in first[1:12]), "else only of those that run"
    assert (first[12].since - first[0].since).total_seconds() < 600, "from an hour before the refresh before"
    batches = [one.after for one in keeping.prices.worked_out]
    assert batches[:4] == ["", "b", "", "b"], "in batches until all are done"
    await keep_history(keeping.handle, "prices")


async def test_aws_away_stops_no_ledger(keeping: Keeping) -> None:
    keeping.prices.failing = "AWS is away"
    await keeping.rounds(3)
    assert keeping.prices.asked[:3] == [True, True, True], "asked again at the next look"
    state = await keeping.state()
    assert state.refreshed_at is None and "AWS is away" in state.problems[0]
    keeping.prices.failing, keeping.prices.problems = "", ["grant it ec2:DescribeSpotPriceHistory"]
    await keeping.rounds(5)
    state = await keeping.state()
    assert state.refreshed_at is not None and state.problems == keeping.prices.problems


async def test_a_second_start_finds_the_first(keeping: Keeping) -> None:
    from activities.__main__ import start_standing_workflows

    run = (await keeping.handle.describe()).run_id
    await start_standing_workflows(keeping.environment.client)
    assert (await keeping.handle.describe()).run_id == run


@pytest.mark.parametrize("limit", ["start_to_close_timeout", "schedule_to_close_timeout"])
def test_asking_for_prices_is_given_up_before_the_next_refresh(limit: str) -> None:
    assert options.PRICES[limit] < timedelta(hours=1)  # type: ignore[literal-required]


async def keep_history(handle: WorkflowHandle[PriceKeeping, None], name: str) -> None:
    """With RECORD_HISTORIES: as the job's histories are kept, for the replay test."""
    if not os.environ.get("RECORD_HISTORIES"):
        return
    text = re.sub(r'"identity": ?"[^"]*"', '"identity":"worker"', (await handle.fetch_history()).to_json())
    lines = ",\n".join(json.dumps(event, separators=(",", ":")) for event in json.loads(text)["events"])
    (HISTORIES / f"{name}.json").write_text(f'{{"events":[\n{lines}\n]}}\n')
