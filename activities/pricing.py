"""Prices from AWS into the records, and the ledgers that rest on them.

Spot prices: DescribeSpotPriceHistory, one call per (instance type, zone) that nodes have, so that one that AWS does not
know spoils no other. List prices: list_prices.py. Needs the rights ec2:DescribeSpotPriceHistory and
pricing:GetProducts; without them the table that we ship is used, as an estimate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from temporalio import activity

from activities import aws
from activities.list_prices import SHIPPED, Clients, ListPrices, NotTold, ask
from perdure.contracts.prices import (
    LedgersWorkedOut,
    PriceActivities,
    PricedPair,
    PricesRefreshed,
    RefreshPrices,
    WorkOutLedgers,
)
from perdure.domain.errors import UnknownJob
from perdure.domain.price_table import to_micros
from perdure.domain.prices import PricePoint
from perdure.records.costs import prices
from perdure.records.jobs.ledger_refresh import refresh_ledger
from perdure.records.schema.database import reading, writing
from perdure.records.settings.configuration import current_configuration

AWS_KEEPS = timedelta(days=90)
"""How far back DescribeSpotPriceHistory goes (EC2 API reference)."""
WE_KEEP = timedelta(days=100)
LIST_PRICES_FOR = timedelta(hours=24)
"""AWS changes list prices rarely, and says so ahead."""


class Pricing(PriceActivities):
    """Asks AWS, writes prices and ledgers. `clients` makes a boto3 client of (service, region)."""

    def __init__(self, engine: Engine, clients: Clients = aws.client) -> None:
        self._engine = engine
        self._clients = clients
        self._made: dict[tuple[str, str], Any] = {}
        self._listed = ListPrices(self._client)

    @activity.defn(name="refresh_prices")
    async def refresh_prices(self, request: RefreshPrices) -> PricesRefreshed:
        """Keys: (instance type, zone, instant); (instance type, region); (kind, region). Raises CloudUnavailable."""
        now = datetime.now(UTC)
        spot = await self._refresh_spot(now, unknown_only=not request.everything)
        listed = await self._refresh_list_prices(now)
        if request.everything:
            await asyncio.to_thread(self._forget, now - WE_KEEP)
        problems = sorted({*spot.problems, *listed})
        for problem in problems:
            activity.logger.warning("%s", problem)
        return spot.model_copy(update={"problems": problems})

    async def _refresh_spot(self, now: datetime, *, unknown_only: bool) -> PricesRefreshed:
        pairs = await asyncio.to_thread(self._spot_pairs, now - AWS_KEEPS, unknown_only)
        points, new, problems, denied = 0, [], [], ""
        for pair in pairs:
            activity.heartbeat()
            try:
                if denied:
                    raise NotTold(denied, denied=True)
                found = await asyncio.to_thread(self._ask_spot, pair)
            except NotTold as problem:
                problems.append(str(problem))
                denied = str(problem) if problem.denied else ""
                await asyncio.to_thread(self._note_spot, pair, now, str(problem))
                continue
            await asyncio.to_thread(self._save_spot, pair, now, found)
            points += len(found)
            if pair.new:
                new.append(PricedPair(instance_type=pair.instance_type, zone=pair.zone))
        return PricesRefreshed(asked=len(pairs), points=points, new_pairs=new, problems=problems)

    async def _refresh_list_prices(self, now: datetime) -> list[str]:
        """List prices that are not known, or were asked for a day ago; why some were not told."""
        types, regions = await asyncio.to_thread(self._list_prices_due, now - LIST_PRICES_FOR)
        problems: list[str] = []
        for listed in types:
            activity.heartbeat()
            try:
                micros = await asyncio.to_thread(self._listed.on_demand, listed)
            except NotTold as problem:
                problems.append(str(problem))
                await asyncio.to_thread(self._note_on_demand, listed, now, str(problem))
                continue
            await asyncio.to_thread(self._save_on_demand, listed, now, micros)
        lists = (self._listed.storage, self._listed.store)
        for region, told in ((region, told) for region in regions for told in lists):
            activity.heartbeat()
            try:
                kinds = await asyncio.to_thread(told, region)
            except NotTold as problem:
                problems.append(str(problem))
                continue
            await asyncio.to_thread(self._save_storage, region, now, kinds)
        return problems

    @activity.defn(name="work_out_ledgers")
    async def work_out_ledgers(self, request: WorkOutLedgers) -> LedgersWorkedOut:
        """Key: the job's id. One transaction per job; a job that cannot be worked out is logged and passed over."""
        ids = await asyncio.to_thread(self._jobs, request)
        for job_id in ids:
            activity.heartbeat()
            await asyncio.to_thread(self._work_out, job_id)
        return LedgersWorkedOut(jobs=len(ids), after=ids[-1] if len(ids) == request.limit else None)

    def _jobs(self, request: WorkOutLedgers) -> list[str]:
        pairs = [(pair.instance_type, pair.zone) for pair in request.pairs]
        with reading(self._engine) as session:
            return prices.jobs_to_work_out(
                session, since=request.since, pairs=pairs, after=request.after, limit=request.limit
            )

    def _work_out(self, job_id: str) -> None:
        try:
            with writing(self._engine) as session:
                refresh_ledger(session, job_id, datetime.now(UTC))
        except UnknownJob:
            activity.logger.info("Job %r went before its ledger was worked out", job_id)
        except SQLAlchemyError:
            raise  # the database, not the job: worth trying again
        except Exception:
            # One record that our formulas cannot digest must not keep all others from their ledgers.
            activity.logger.exception("The ledger of job %r cannot be worked out; its old lines stay", job_id)

    def _client(self, service: str, region: str) -> Any:
        key = (service, region)
        if key not in self._made:
            self._made[key] = self._clients(service, region)
        return self._made[key]

    def _ask_spot(self, pair: prices.SpotPair) -> list[PricePoint]:
        """Price changes since `pair.since`, and the one that held then. Blocks."""
        what = f"the Spot price of {pair.instance_type[:40]!r} in {pair.zone[:40]!r}"
        if not pair.region:
            raise NotTold(f"No region has a zone of that name: {what} is not asked for; {SHIPPED}")
        pages = self._client("ec2", pair.region).get_paginator("describe_spot_price_history")
        answer = ask(
            what,
            "ec2:DescribeSpotPriceHistory",
            lambda: [
                one
                for page in pages.paginate(
                    InstanceTypes=[pair.instance_type],
                    AvailabilityZone=pair.zone,
                    ProductDescriptions=["Linux/UNIX"],
                    StartTime=pair.since,
                )
                for one in page["SpotPriceHistory"]
            ],
        )
        points = [PricePoint(at=one["Timestamp"], micros_per_hour=to_micros(one["SpotPrice"])) for one in answer]
        if not points and pair.new:
            raise NotTold(f"AWS names no price when asked for {what}; {SHIPPED}")
        return points

    def _spot_pairs(self, earliest: datetime, unknown_only: bool) -> list[prices.SpotPair]:
        with reading(self._engine) as session:
            return prices.spot_pairs_to_ask(session, earliest=earliest, unknown_only=unknown_only)

    def _list_prices_due(self, stale: datetime) -> tuple[list[prices.ListedType], list[str]]:
        with reading(self._engine) as session:
            store = current_configuration(session).store.region
            regions = prices.storage_regions_to_ask(session, stale=stale, store=store)
            return prices.types_to_ask(session, stale=stale), regions

    def _save_spot(self, pair: prices.SpotPair, now: datetime, points: Iterable[PricePoint]) -> None:
        with writing(self._engine) as session:
            prices.save_spot_points(session, pair.instance_type, pair.zone, points, known_until=now)

    def _note_spot(self, pair: prices.SpotPair, now: datetime, problem: str) -> None:
        with writing(self._engine) as session:
            prices.note_spot_problem(session, pair.instance_type, pair.zone, at=now, problem=problem)

    def _save_on_demand(self, listed: prices.ListedType, now: datetime, micros: int) -> None:
        with writing(self._engine) as session:
            prices.save_on_demand(session, listed.instance_type, listed.region, micros, at=now)

    def _note_on_demand(self, listed: prices.ListedType, now: datetime, problem: str) -> None:
        with writing(self._engine) as session:
            prices.note_on_demand_problem(session, listed.instance_type, listed.region, at=now, problem=problem)

    def _save_storage(self, region: str, now: datetime, kinds: dict[str, int]) -> None:
        with writing(self._engine) as session:
            prices.save_storage(session, region, kinds, at=now)

    def _forget(self, before: datetime) -> None:
        with writing(self._engine) as session:
            prices.forget_old_points(session, before)
