"""Prices from AWS into the records, and the ledgers that rest on them.

Spot prices: DescribeSpotPriceHistory, one call per (instance type, zone) that nodes have, so that one that AWS does not
know spoils no other. List prices: the Price List API, which answers in three regions only, for all. Needs the rights
ec2:DescribeSpotPriceHistory and pricing:GetProducts; without them the table that we ship is used, as an estimate.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from temporalio import activity

from activities import aws
from perdure.contracts.prices import (
    LedgersWorkedOut,
    PriceActivities,
    PricedPair,
    PricesRefreshed,
    RefreshPrices,
    WorkOutLedgers,
)
from perdure.domain.errors import CloudUnavailable, UnknownJob
from perdure.domain.price_table import to_micros
from perdure.domain.prices import PricePoint
from perdure.records.costs import prices
from perdure.records.jobs.ledger_refresh import refresh_ledger
from perdure.records.schema.database import reading, writing

T = TypeVar("T")
Clients = Callable[[str, str], Any]

AWS_KEEPS = timedelta(days=90)
"""How far back DescribeSpotPriceHistory goes (EC2 API reference)."""
WE_KEEP = timedelta(days=100)
LIST_PRICES_FOR = timedelta(hours=24)
"""AWS changes list prices rarely, and says so ahead."""
_DENIED = {"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"}
_SHIPPED = "prices come from the shipped table, as estimates"
_FIRST_IOPS = ("EBS:VolumeP-IOPS.gp3", "EBS:VolumeP-IOPS.piops", "EBS:VolumeP-IOPS.io2")
"""io1's are called piops; io2 has cheaper ones beyond 32,000, which are not counted (docs/aws-assumptions.md)."""
_ONE_PRICE = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
}
"""What makes a product of AmazonEC2 the plain on-demand instance."""


class _Problem(Exception):
    """AWS does not tell a price; the message says why, for people. `denied`: it will not tell any."""

    def __init__(self, message: str, denied: bool = False) -> None:
        self.denied = denied
        super().__init__(message)


class Pricing(PriceActivities):
    """Asks AWS, writes prices and ledgers. `clients` makes a boto3 client of (service, region)."""

    def __init__(self, engine: Engine, clients: Clients = aws.client) -> None:
        self._engine = engine
        self._clients = clients
        self._made: dict[tuple[str, str], Any] = {}

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
                    raise _Problem(denied, denied=True)
                found = await asyncio.to_thread(self._ask_spot, pair)
            except _Problem as problem:
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
                micros = await asyncio.to_thread(self._ask_on_demand, listed)
            except _Problem as problem:
                problems.append(str(problem))
                await asyncio.to_thread(self._note_on_demand, listed, now, str(problem))
                continue
            await asyncio.to_thread(self._save_on_demand, listed, now, micros)
        for region in regions:
            activity.heartbeat()
            try:
                kinds = await asyncio.to_thread(self._ask_storage, region)
            except _Problem as problem:
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
            raise _Problem(f"No region has a zone of that name: {what} is not asked for; {_SHIPPED}")
        pages = self._client("ec2", pair.region).get_paginator("describe_spot_price_history")
        answer = _ask(
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
            raise _Problem(f"AWS names no price when asked for {what}; {_SHIPPED}")
        return points

    def _ask_on_demand(self, listed: prices.ListedType) -> int:
        """Micro-dollars per hour. Blocks."""
        what = f"the on-demand price of {listed.instance_type[:40]!r} in {listed.region}"
        wanted = {"instanceType": listed.instance_type, "regionCode": listed.region, **_ONE_PRICE}
        found = {micros for _, unit, micros in self._products(what, listed.region, wanted) if unit == "Hrs" and micros}
        if len(found) != 1:
            raise _Problem(f"AWS names {len(found) or 'no'} prices when asked for {what}; {_SHIPPED}")
        return found.pop()

    def _ask_storage(self, region: str) -> dict[str, int]:
        """Micro-dollars a month by kind (perdure.domain.prices.Prices): of GiB, operations a second, MiB/s. Blocks."""
        what, kinds = f"storage prices in {region}", {}
        for family in ("Storage", "Storage Snapshot", "System Operation", "Provisioned Throughput"):
            wanted = {"productFamily": family, "regionCode": region}
            for attributes, unit, micros in self._products(what, region, wanted):
                usage, volume_type = str(attributes.get("usagetype", "")), str(attributes.get("volumeApiName", ""))
                if not micros:
                    continue
                if unit == "GB-Mo" and "EBS:VolumeUsage" in usage and volume_type:
                    kinds[volume_type] = micros
                elif unit == "GB-Mo" and usage.endswith("EBS:SnapshotUsage"):
                    kinds["snapshot"] = micros
                elif unit == "IOPS-Mo" and usage.endswith(_FIRST_IOPS) and volume_type:
                    kinds[f"{volume_type}-iops"] = micros
                elif unit == "GiBps-mo" and volume_type:
                    kinds[f"{volume_type}-throughput"] = micros // 1024
        return kinds

    def _products(self, what: str, region: str, wanted: dict[str, str]) -> list[tuple[dict[str, Any], str, int]]:
        """(attributes, unit, micro-dollars) of every on-demand price of AmazonEC2 that matches."""
        filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
        pages = self._client("pricing", _pricing_region(region)).get_paginator("get_products")
        answer = _ask(
            what,
            "pricing:GetProducts",
            lambda: [
                json.loads(one)
                for page in pages.paginate(ServiceCode="AmazonEC2", Filters=filters)
                for one in page["PriceList"]
            ],
        )
        return [
            (product["product"]["attributes"], dimension["unit"], to_micros(dimension["pricePerUnit"].get("USD", "0")))
            for product in answer
            for term in product.get("terms", {}).get("OnDemand", {}).values()
            for dimension in term["priceDimensions"].values()
        ]

    def _spot_pairs(self, earliest: datetime, unknown_only: bool) -> list[prices.SpotPair]:
        with reading(self._engine) as session:
            return prices.spot_pairs_to_ask(session, earliest=earliest, unknown_only=unknown_only)

    def _list_prices_due(self, stale: datetime) -> tuple[list[prices.ListedType], list[str]]:
        with reading(self._engine) as session:
            return prices.types_to_ask(session, stale=stale), prices.storage_regions_to_ask(session, stale=stale)

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


def _pricing_region(region: str) -> str:
    """The Price List API answers in these regions, for prices everywhere ("AWS Price List Query API endpoints")."""
    return {"eu": "eu-central-1", "ap": "ap-south-1"}.get(region.partition("-")[0], "us-east-1")


def _ask(what: str, right: str, question: Callable[[], T]) -> T:
    """The answer. Raises CloudUnavailable, or _Problem where asking again would not help."""
    try:
        return question()
    except (BotoCoreError, ClientError) as problem:
        ours = aws.as_ours(problem, f"tell {what}")
        if isinstance(ours, CloudUnavailable):
            raise ours from problem
        if isinstance(problem, ClientError) and aws.error_code(problem) in _DENIED:
            raise _Problem(
                f"Perdure may not ask AWS for prices: grant it {right}; {_SHIPPED}", denied=True
            ) from problem
        raise _Problem(f"{ours}; {_SHIPPED}") from problem
    except (KeyError, TypeError, ValueError) as problem:
        raise _Problem(f"AWS's answer cannot be read when asked for {what} ({problem}); {_SHIPPED}") from problem
