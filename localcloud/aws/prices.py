"""Prices of the local AWS: a Spot price history by zone and time, and the Price List API, which moto has not.

The history is made up but plausible, and always the same: each (type, zone) has a level between 23 and 47 percent of
the on-demand price, which moves by a few percent every six hours or so. The list is a small fixture of public list
prices; they are the same in every region here.

Sources: EC2 API reference, DescribeSpotPriceHistory; AWS Price List Query API, GetProducts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.sax.saxutils import escape

from localcloud.aws import ec2_wire
from localcloud.aws.ec2_wire import Environ, StartResponse, read_body
from localcloud.errors import AwsError
from perdure.domain.values import EPOCH

ON_DEMAND = {
    "c5.large": "0.0850000000",
    "c5.xlarge": "0.1700000000",
    "c5.2xlarge": "0.3400000000",
    "c5.4xlarge": "0.6800000000",
    "c5.9xlarge": "1.5300000000",
    "c5.18xlarge": "3.0600000000",
    "m5.large": "0.0960000000",
    "m5.xlarge": "0.1920000000",
    "m6i.xlarge": "0.1920000000",
    "g4dn.xlarge": "0.5260000000",
}
"""Dollars per hour: every type that the local cloud launches, and a few more."""
VOLUMES = {"gp3": "0.0800000000", "gp2": "0.1000000000", "io2": "0.1250000000", "st1": "0.0450000000"}
SNAPSHOT = "0.0500000000"
"""Dollars per GiB-month."""
IOPS, THROUGHPUT = {"gp3": "0.0050000000", "io2": "0.0650000000"}, "40.9600000000"
"""Dollars a month: of an operation a second, and of 1,024 MiB/s."""
S3_STORAGE = {
    "TimedStorage-ByteHrs": ("0.0230000000", "0.0220000000", "0.0210000000"),
    "TimedStorage-SIA-ByteHrs": ("0.0125000000",),
}
"""Dollars per GiB-month by usage type; it gets cheaper from 50 TiB and 500 TiB on."""
S3_REQUESTS = {
    "Requests-Tier1": "0.0000050000",
    "Requests-Tier2": "0.0000004000",
    "Requests-SIA-Tier1": "0.0000100000",
    "Tables-Requests-Tier1": "0.0000070000",
}
KMS_REQUESTS = {
    "KMS-Requests": ("0.0000000000", "0.0000030000"),
    "KMS-Requests-Asymmetric": ("0.0000150000",),
}
"""Dollars per request; the first 20,000 of a month are free."""

KEPT = timedelta(days=90)
PERIOD = timedelta(hours=6)
PAGE = 1000


def price_changes(instance_type: str, zone: str, start: datetime, end: datetime) -> Iterator[tuple[datetime, str]]:
    """Changes of the Spot price between two instants, and the last one before: (instant, dollars), newest first."""
    on_demand = float(ON_DEMAND[instance_type])
    period = (end - EPOCH) // PERIOD
    while True:
        draw = _draws(f"{instance_type} {zone} {period}")
        at = EPOCH + period * PERIOD + int(draw[0] * PERIOD.total_seconds()) * timedelta(seconds=1)
        level = 0.25 + 0.2 * _draws(f"{instance_type} {zone}")[0] + 0.04 * (draw[1] - 0.5)
        if at <= end:
            yield at, f"{on_demand * level:.6f}"
        if at <= start:
            return
        period -= 1


def _draws(seed: str) -> tuple[float, float]:
    """Two numbers from 0 to 1 that depend on the seed alone."""
    digest = hashlib.sha256(seed.encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32, int.from_bytes(digest[4:8]) / 2**32


def describe_spot_price_history(params: dict[str, str], zones: list[str], now: datetime) -> bytes:
    """EC2's answer. AwsError for what EC2 refuses."""
    types = _listed(params, "InstanceType") or sorted(ON_DEMAND)
    unknown = [name for name in types if name not in ON_DEMAND]
    if unknown:
        raise AwsError("InvalidParameterValue", f"The following supplied instance types do not exist: {unknown}")
    zone = params.get("AvailabilityZone")
    if zone is not None and zone not in zones:
        raise AwsError("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
    products = _listed(params, "ProductDescription")
    start = max(_instant(params.get("StartTime")) or now - KEPT, now - KEPT)
    end = min(_instant(params.get("EndTime")) or now, now)
    found = [
        (at, name, place, price)
        for name in types
        for place in ([zone] if zone else zones)
        for at, price in price_changes(name, place, start, end)
        if not products or "Linux/UNIX" in products or "Linux/UNIX (Amazon VPC)" in products
    ]
    found.sort(key=lambda each: each[0], reverse=True)
    first, size = int(params.get("NextToken") or 0), min(int(params.get("MaxResults") or PAGE), PAGE)
    items = "".join(
        f"<item><instanceType>{escape(name)}</instanceType><productDescription>Linux/UNIX</productDescription>"
        f"<spotPrice>{price}</spotPrice><timestamp>{ec2_wire.timestamp(at)}</timestamp>"
        f"<availabilityZone>{escape(place)}</availabilityZone></item>"
        for at, name, place, price in found[first : first + size]
    )
    more = str(first + size) if first + size < len(found) else ""
    fields = f"<spotPriceHistorySet>{items}</spotPriceHistorySet><nextToken>{more}</nextToken>"
    return ec2_wire.answer("DescribeSpotPriceHistory", fields)


def _listed(params: dict[str, str], name: str) -> list[str]:
    return [value for key, value in params.items() if key.startswith(f"{name}.")]


def _instant(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise AwsError("InvalidParameterValue", f"{text[:40]} is not a time.") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


class PricingApi:
    """The Price List Query API's GetProducts for AmazonEC2, AmazonS3 and awskms: a WSGI application."""

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        action = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        try:
            if action != "GetProducts":
                raise AwsError("UnknownOperationException", f"The local cloud answers no {action or 'such request'}.")
            body = json.dumps(_get_products(_parse(read_body(environ)))).encode()
            return ec2_wire.respond(start, body, 200, "application/x-amz-json-1.1")
        except AwsError as refusal:
            body = json.dumps({"__type": refusal.code, "Message": str(refusal)}).encode()
            return ec2_wire.respond(start, body, refusal.status, "application/x-amz-json-1.1")


def _parse(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body or b"{}")
    except ValueError:
        request = None
    if not isinstance(request, dict):
        raise AwsError("SerializationException", "The request is not a JSON object.")
    return request


def _get_products(request: dict[str, Any]) -> dict[str, Any]:
    service = _SERVICES.get(str(request.get("ServiceCode")))
    if service is None:
        raise AwsError("NotFoundException", f"There is no service {request.get('ServiceCode')!r} in this price list.")
    wanted = {each["Field"]: each["Value"] for each in request.get("Filters", [])}
    region = wanted.pop("regionCode", "us-east-1")
    found = [
        product
        for product in service(region)
        if all(product["product"]["attributes"].get(name) == value for name, value in wanted.items())
    ]
    first, size = int(request.get("NextToken") or 0), min(int(request.get("MaxResults") or 100), 100)
    answer = {"FormatVersion": "aws_v1", "PriceList": [json.dumps(each) for each in found[first : first + size]]}
    return answer | ({"NextToken": str(first + size)} if first + size < len(found) else {})


def _products(region: str) -> Iterator[dict[str, Any]]:
    plain = {"operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used"}
    for name, price in ON_DEMAND.items():
        attributes = {"instanceType": name, **plain, "marketoption": "OnDemand", "usagetype": f"BoxUsage:{name}"}
        yield _product("Compute Instance", region, attributes, "Hrs", price)
        # The same machine sold otherwise: who asks without filters sees many prices, as on AWS.
        yield _product("Compute Instance", region, attributes | {"operatingSystem": "Windows"}, "Hrs", "9.9900000000")
        yield _product("Compute Instance", region, attributes | {"tenancy": "Dedicated"}, "Hrs", "8.8800000000")
    for kind, price in VOLUMES.items():
        attributes = {"volumeApiName": kind, "usagetype": f"EBS:VolumeUsage.{kind}"}
        yield _product("Storage", region, attributes, "GB-Mo", price)
    for kind, price in IOPS.items():
        attributes = {"volumeApiName": kind, "group": "EBS IOPS", "usagetype": f"EBS:VolumeP-IOPS.{kind}"}
        yield _product("System Operation", region, attributes, "IOPS-Mo", price)
    attributes = {"volumeApiName": "gp3", "usagetype": "EBS:VolumeP-Throughput.gp3"}
    yield _product("Provisioned Throughput", region, attributes, "GiBps-mo", THROUGHPUT)
    yield _product("Storage Snapshot", region, {"usagetype": "EBS:SnapshotUsage"}, "GB-Mo", SNAPSHOT)


def _s3(region: str) -> Iterator[dict[str, Any]]:
    for usage, tiers in S3_STORAGE.items():
        attributes = {"volumeType": "Standard", "usagetype": usage}
        yield _product("Storage", region, attributes, "GB-Mo", *tiers, service="AmazonS3")
    for usage, price in S3_REQUESTS.items():
        yield _product("API Request", region, {"usagetype": usage}, "Requests", price, service="AmazonS3")


def _kms(region: str) -> Iterator[dict[str, Any]]:
    for usage, tiers in KMS_REQUESTS.items():
        attributes = {"usagetype": f"{region}-{usage}"}
        yield _product("Encryption Key", region, attributes, "Requests", *tiers, service="awskms")


_SERVICES = {"AmazonEC2": _products, "AmazonS3": _s3, "awskms": _kms}


def _product(
    family: str, region: str, attributes: dict[str, str], unit: str, *prices: str, service: str = "AmazonEC2"
) -> dict[str, Any]:
    """With several `prices`: one for each amount, as AWS lists what gets cheaper."""
    known = {"servicecode": service, "regionCode": region, "productFamily": family, **attributes}
    sku = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16].upper()
    dimensions = {
        f"{sku}.JRTCKXETXF.{number}": {"unit": unit, "beginRange": str(number), "pricePerUnit": {"USD": price}}
        for number, price in enumerate(prices)
    }
    term = {"sku": sku, "offerTermCode": "JRTCKXETXF", "priceDimensions": dimensions}
    return {
        "serviceCode": service,
        "product": {"sku": sku, "productFamily": family, "attributes": known},
        "terms": {"OnDemand": {f"{sku}.JRTCKXETXF": term}},
    }
