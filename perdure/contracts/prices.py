"""Keeping prices and the ledgers that rest on them: activities on the queue `control`, and what they are asked."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field
from temporalio import activity

from perdure.domain.values import Frozen


class PricedPair(Frozen):
    """An instance type in an availability zone: what has a Spot price."""

    instance_type: str
    zone: str


class RefreshPrices(Frozen):
    """Ask AWS for prices: of all that is in use, or (`everything` off) only of what it was never asked for."""

    everything: bool


class PricesRefreshed(Frozen):
    """What came of it. `new_pairs`: their prices were not known before. `problems`: sentences for people."""

    asked: int = 0
    points: int = 0
    new_pairs: list[PricedPair] = Field(default_factory=list)
    problems: list[str] = Field(default_factory=list)


class WorkOutLedgers(Frozen):
    """Work out some ledgers anew, of jobs after `after` in the order of their ids: of those that run; of those that
    ended, or whose instance did, after `since` (UTC; None: none of them); of those on nodes of `pairs`."""

    since: datetime | None = None
    pairs: list[PricedPair] = Field(default_factory=list)
    after: str = ""
    limit: int = 100


class LedgersWorkedOut(Frozen):
    """How many, and where to go on; None: that was all."""

    jobs: int
    after: str | None = None


class PriceKeepingInput(Frozen):
    """What the workflow carries from run to run. `refreshed_at`: when all prices in use were last asked for (UTC)."""

    refreshed_at: datetime | None = None
    problems: list[str] = Field(default_factory=list)


class PriceActivities:
    """Prices, and ledgers that follow them."""

    @activity.defn(name="refresh_prices")
    async def refresh_prices(self, request: RefreshPrices) -> PricesRefreshed:
        """Idempotent: key (instance type, zone, instant) for Spot, (instance type, region) for list prices. Raises
        CloudUnavailable; a missing permission is a problem, not an error: the shipped table is used then."""
        raise NotImplementedError

    @activity.defn(name="work_out_ledgers")
    async def work_out_ledgers(self, request: WorkOutLedgers) -> LedgersWorkedOut:
        """Idempotent by job: the ledger is worked out of the record as it is."""
        raise NotImplementedError
