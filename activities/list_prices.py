"""List prices as AWS's Price List Query API tells them: of instances, of EBS, of a store in S3 and of KMS.

It answers in three regions only, for all. What it does not tell is a NotTold, which says why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from activities import aws
from perdure.domain.errors import CloudUnavailable
from perdure.domain.price_table import to_micros
from perdure.domain.store_costs import KEYS, READS, STORAGE, WRITES
from perdure.records.costs import prices

T = TypeVar("T")
Clients = Callable[[str, str], Any]

_DENIED = {"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"}
SHIPPED = "prices come from the shipped table, as estimates"
_FIRST_IOPS = ("EBS:VolumeP-IOPS.gp3", "EBS:VolumeP-IOPS.piops", "EBS:VolumeP-IOPS.io2")
"""io1's are called piops; io2 has cheaper ones beyond 32,000, which are not counted (docs/aws-assumptions.md)."""
_S3_FAMILY = {"GB-Mo": "Storage", "Requests": "API Request"}
_OF_A_STORE = (
    (STORAGE, "AmazonS3", re.compile(r"^([A-Z0-9]+-)?TimedStorage-ByteHrs$"), "GB-Mo", 1),
    (WRITES, "AmazonS3", re.compile(r"^([A-Z0-9]+-)?Requests-Tier1$"), "Requests", 1000),
    (READS, "AmazonS3", re.compile(r"^([A-Z0-9]+-)?Requests-Tier2$"), "Requests", 1000),
    (KEYS, "awskms", re.compile(r"^([a-z0-9-]+-)?KMS-Requests$"), "Requests", 10_000),
)
"""What we call it, the service, its usage type (an S3 one begins with the region's short name), its unit, and of how
many our price is (docs/aws-assumptions.md)."""
_ONE_PRICE = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
}
"""What makes a product of AmazonEC2 the plain on-demand instance."""


class NotTold(Exception):
    """AWS does not tell a price; the message says why, for people. `denied`: it will not tell any."""

    def __init__(self, message: str, denied: bool = False) -> None:
        self.denied = denied
        super().__init__(message)


class ListPrices:
    """`clients` gives a boto3 client of (service, region). Every method blocks; NotTold, CloudUnavailable."""

    def __init__(self, clients: Clients) -> None:
        self._client = clients

    def on_demand(self, listed: prices.ListedType) -> int:
        """Micro-dollars per hour. Blocks."""
        what = f"the on-demand price of {listed.instance_type[:40]!r} in {listed.region}"
        wanted = {"instanceType": listed.instance_type, "regionCode": listed.region, **_ONE_PRICE}
        found = {micros for _, unit, micros in self._products(what, listed.region, wanted) if unit == "Hrs" and micros}
        if len(found) != 1:
            raise NotTold(f"AWS names {len(found) or 'no'} prices when asked for {what}; {SHIPPED}")
        return found.pop()

    def storage(self, region: str) -> dict[str, int]:
        """Micro-dollars a month by kind (perdure.domain.prices.Prices): of GiB, operations a second, MiB/s. Blocks."""
        what = f"storage prices in {region}"
        kinds: dict[str, int] = {}
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

    def store(self, region: str) -> dict[str, int]:
        """What a store in S3 costs, and KMS: micro-dollars of a GiB-month and of requests. Blocks."""
        what = f"S3's prices in {region}"
        kinds: dict[str, int] = {}
        for kind, service, usage, unit, times in _OF_A_STORE:
            wanted = {"regionCode": region} | ({"productFamily": _S3_FAMILY[unit]} if service == "AmazonS3" else {})
            found = [
                to_micros(price, times)
                for attributes, of, price in self._prices(what, region, wanted, service)
                if of == unit and usage.search(str(attributes.get("usagetype", "")))
            ]
            if any(found):  # what comes first is the dearest: free requests and large amounts cost less
                kinds[kind] = max(found)
        return kinds

    def _products(self, what: str, region: str, wanted: dict[str, str]) -> list[tuple[dict[str, Any], str, int]]:
        """(attributes, unit, micro-dollars) of every on-demand price of AmazonEC2 that matches."""
        found = self._prices(what, region, wanted, "AmazonEC2")
        return [(attributes, unit, to_micros(price)) for attributes, unit, price in found]

    def _prices(
        self, what: str, region: str, wanted: dict[str, str], service: str
    ) -> list[tuple[dict[str, Any], str, str]]:
        """(attributes, unit, dollars) of every on-demand price of that service that matches."""
        filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
        pages = self._client("pricing", _pricing_region(region)).get_paginator("get_products")
        answer = ask(
            what,
            "pricing:GetProducts",
            lambda: [
                json.loads(one)
                for page in pages.paginate(ServiceCode=service, Filters=filters)
                for one in page["PriceList"]
            ],
        )
        return [
            (product["product"]["attributes"], dimension["unit"], dimension["pricePerUnit"].get("USD", "0"))
            for product in answer
            for term in product.get("terms", {}).get("OnDemand", {}).values()
            for dimension in term["priceDimensions"].values()
        ]


def _pricing_region(region: str) -> str:
    """The Price List API answers in these regions, for prices everywhere ("AWS Price List Query API endpoints")."""
    return {"eu": "eu-central-1", "ap": "ap-south-1"}.get(region.partition("-")[0], "us-east-1")


def ask(what: str, right: str, question: Callable[[], T]) -> T:
    """The answer. Raises CloudUnavailable, or NotTold where asking again would not help."""
    try:
        return question()
    except (BotoCoreError, ClientError) as problem:
        ours = aws.as_ours(problem, f"tell {what}")
        if isinstance(ours, CloudUnavailable):
            raise ours from problem
        if isinstance(problem, ClientError) and aws.error_code(problem) in _DENIED:
            raise NotTold(f"Perdure may not ask AWS for prices: grant it {right}; {SHIPPED}", denied=True) from problem
        raise NotTold(f"{ours}; {SHIPPED}") from problem
    except (KeyError, TypeError, ValueError) as problem:
        raise NotTold(f"AWS's answer cannot be read when asked for {what} ({problem}); {SHIPPED}") from problem
