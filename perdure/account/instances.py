"""Which instances attempts ran on, and what an hour of them cost, as far as AWS remembers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from fractions import Fraction

from perdure.account.asking import Aws
from perdure.account.environments import Shown
from perdure.domain.price_table import to_micros
from perdure.domain.prices import PriceHistory, PricePoint, Prices, SpotPoints

INSTANCE = re.compile(r"\bi-[0-9a-f]{8,32}\b")
_AT_ONCE = 100
Pair = tuple[str, str]
"""An instance type and a zone."""


def instances(aws: Aws, jobs: list[Shown], environments: list[Shown]) -> tuple[dict[str, Pair], dict[str, int]]:
    """(type and zone by container instance's address and by instance id; vCPUs by type), as far as AWS remembers."""
    places: dict[str, Pair] = {}
    clusters = {str(one.get("ecsClusterArn", "")).rpartition("/")[2]: one.get("ecsClusterArn") for one in environments}
    wanted: dict[str, set[str]] = {}
    for attempt in (attempt for job in jobs for attempt in job.get("attempts", [])):
        address = str((attempt.get("container") or {}).get("containerInstanceArn", ""))
        cluster = next((name for name in clusters if name and f"/{name}/" in address), "")
        if cluster:
            wanted.setdefault(cluster, set()).add(address)
    by_instance: dict[str, list[str]] = {}
    for cluster, addresses in wanted.items():
        for one in _describe_container_instances(aws, cluster, sorted(addresses)):
            by_instance.setdefault(str(one.get("ec2InstanceId", "")), []).append(str(one["containerInstanceArn"]))
    reasons = {str(attempt.get("statusReason", "")) for job in jobs for attempt in job.get("attempts", [])}
    ids = sorted((set(by_instance) | {found for reason in reasons for found in INSTANCE.findall(reason)}) - {""})
    # By filter: an id that is no more is left out, where InstanceIds would refuse all.
    for start in range(0, len(ids), _AT_ONCE):
        some = [{"Name": "instance-id", "Values": ids[start : start + _AT_ONCE]}]
        for reservation in aws.ask(
            "ec2:DescribeInstances",
            lambda some=some: aws.pages("ec2", "describe_instances", "Reservations", Filters=some),  # type: ignore[misc]
            list[Shown](),
        ):
            for instance in reservation["Instances"]:
                place = str(instance["InstanceType"]), str(instance["Placement"]["AvailabilityZone"])
                for key in [str(instance["InstanceId"]), *by_instance.get(str(instance["InstanceId"]), [])]:
                    places[key] = place
    types = sorted({kind for kind, _ in places.values()})
    filters = [{"Name": "instance-type", "Values": types}]
    found = aws.ask(
        "ec2:DescribeInstanceTypes",
        lambda: aws.pages("ec2", "describe_instance_types", "InstanceTypes", Filters=filters) if types else [],
        list[Shown](),
    )
    return places, {str(one["InstanceType"]): int(one["VCpuInfo"]["DefaultVCpus"]) for one in found}


def _describe_container_instances(aws: Aws, cluster: str, addresses: list[str]) -> list[Shown]:
    ecs = aws.client("ecs")
    return aws.ask(
        "ecs:DescribeContainerInstances",
        lambda: [
            one
            for start in range(0, len(addresses), _AT_ONCE)
            for one in ecs.describe_container_instances(
                cluster=cluster, containerInstances=addresses[start : start + _AT_ONCE]
            )["containerInstances"]
        ],
        list[Shown](),
    )


def likely_pairs(aws: Aws, environments: list[Shown], vcpus: dict[str, int]) -> tuple[Pair, ...]:
    """The pairs that these environments may start. Enters the types' vCPUs."""
    found: list[Pair] = []
    for one in environments:
        resources = one.get("computeResources") or {}
        named = [name for name in resources.get("instanceTypes", []) if name != "optimal"] or ["c5", "m5", "r5"]
        patterns = [name if "." in name else f"{name}.*" for name in named]
        subnets = resources.get("subnets", [])
        zones = sorted(
            {
                str(each["AvailabilityZone"])
                for each in aws.ask(
                    "ec2:DescribeSubnets",
                    lambda subnets=subnets: (
                        aws.client("ec2").describe_subnets(SubnetIds=subnets)["Subnets"]  # type: ignore[misc]
                        if subnets
                        else []
                    ),
                    list[Shown](),
                )
            }
        )
        types = aws.ask(
            "ec2:DescribeInstanceTypes",
            lambda patterns=patterns: aws.pages(  # type: ignore[misc]
                "ec2",
                "describe_instance_types",
                "InstanceTypes",
                Filters=[{"Name": "instance-type", "Values": patterns}],
            ),
            list[Shown](),
        )
        vcpus |= {str(each["InstanceType"]): int(each["VCpuInfo"]["DefaultVCpus"]) for each in types}
        found += [(str(each["InstanceType"]), zone) for each in types for zone in zones]
    return tuple(dict.fromkeys(found))


def smallest_of_each_family(pairs: tuple[Pair, ...], vcpus: Mapping[str, int]) -> list[Pair]:
    """One type of each family, as the price of a vCPU is much the same within a family: the smallest."""
    smallest: dict[str, str] = {}
    for kind, _ in pairs:
        family = kind.partition(".")[0]
        if family not in smallest or vcpus[kind] < vcpus[smallest[family]]:
            smallest[family] = kind
    return [(kind, zone) for kind, zone in pairs if smallest[kind.partition(".")[0]] == kind]


def cheapest_vcpu(pairs: tuple[Pair, ...], vcpus: Mapping[str, int], prices: Prices, at: datetime) -> PriceHistory:
    """What one vCPU costs for an hour where the instance is not known: in the cheapest of these pairs, at that time."""
    best: tuple[Fraction, str] | None = None
    for kind, zone in smallest_of_each_family(pairs, vcpus):
        price = prices.spot(kind, zone)
        micros = price.at(at)
        if micros is not None and (best is None or Fraction(micros, vcpus[kind]) < best[0]):
            best = Fraction(micros, vcpus[kind]), price.source
    if best is None:
        return PriceHistory([], source="no price is known")
    return PriceHistory.constant(int(best[0]), estimated=True, source=best[1])


def spot_points(aws: Aws, pair: Pair, since: datetime, now: datetime) -> SpotPoints:
    found = aws.ask(
        "ec2:DescribeSpotPriceHistory",
        lambda: aws.pages(
            "ec2",
            "describe_spot_price_history",
            "SpotPriceHistory",
            InstanceTypes=[pair[0]],
            AvailabilityZone=pair[1],
            ProductDescriptions=["Linux/UNIX"],
            StartTime=since,
        ),
        list[Shown](),
    )
    points = [PricePoint(at=one["Timestamp"], micros_per_hour=to_micros(one["SpotPrice"])) for one in found]
    return SpotPoints(points=points, known_until=now)
