"""Keeps prices and ledgers up to date: one workflow, `prices`, started by the control worker.

Every five minutes it looks for instance types and zones that have no price yet, and has the ledgers of running jobs
worked out again, so that their costs grow; every hour it asks AWS for all prices in use, and the ledgers of jobs that
ended meanwhile are worked out once more.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.prices import (
        PriceActivities,
        PriceKeepingInput,
        PricesRefreshed,
        RefreshPrices,
        WorkOutLedgers,
    )
    from workflows.options import LEDGERS, PRICES

LOOK_EVERY = timedelta(minutes=5)
REFRESH_EVERY = timedelta(hours=1)
LATE_FACTS = timedelta(hours=1)
"""How long after a job's end something can still be learnt that changes its costs: how its instance ended."""


@workflow.defn(name=names.PRICE_KEEPING)
class PriceKeeping:
    """Workflow `prices`. Never ends."""

    @workflow.init
    def __init__(self, start: PriceKeepingInput) -> None:
        self._refreshed_at = start.refreshed_at
        self._problems = start.problems

    @workflow.run
    async def run(self, start: PriceKeepingInput) -> None:
        """For ever."""
        while True:
            await self._round()
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(self.state())
            await workflow.sleep(LOOK_EVERY, summary="next look")

    @workflow.query
    def state(self) -> PriceKeepingInput:
        """When all prices in use were last asked for, and what stood in the way."""
        return PriceKeepingInput(refreshed_at=self._refreshed_at, problems=self._problems)

    async def _round(self) -> None:
        now, before = workflow.now(), self._refreshed_at
        everything = before is None or now - before >= REFRESH_EVERY
        refreshed = await self._refresh(everything)
        since = None
        if refreshed is not None and everything:
            since = min(before or now, now) - LATE_FACTS
            self._refreshed_at = now
        await self._work_out(WorkOutLedgers(since=since, pairs=refreshed.new_pairs if refreshed else []))

    async def _refresh(self, everything: bool) -> PricesRefreshed | None:
        """None: AWS is out of reach; the next look asks again."""
        try:
            refreshed = await workflow.execute_activity_method(
                PriceActivities.refresh_prices,
                RefreshPrices(everything=everything),
                summary="all prices in use" if everything else "prices never asked for",
                **PRICES,
            )
        except ActivityError as problem:
            self._problems = [f"AWS could not be asked for prices: {problem.cause}"]
            return None
        if everything or refreshed.asked:
            self._problems = refreshed.problems
        return refreshed

    async def _work_out(self, wanted: WorkOutLedgers) -> None:
        after: str | None = ""
        while after is not None:
            worked_out = await workflow.execute_activity_method(
                PriceActivities.work_out_ledgers,
                wanted.model_copy(update={"after": after}),
                summary="ledgers of running jobs" if wanted.since is None else "ledgers, with new prices",
                **LEDGERS,
            )
            after = worked_out.after
