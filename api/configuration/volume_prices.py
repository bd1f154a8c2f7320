"""What job volumes are, and cost an hour, under a configuration: for jobs of some sizes."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlmodel import Session

from api.configuration.models import VolumePriceView
from perdure.domain.configuration import JobConfiguration
from perdure.domain.prices import Prices
from perdure.domain.volume_sizes import billed, month_rate
from perdure.domain.zone_snapshots import HOURS_A_MONTH
from perdure.records.costs.prices import load_prices, newest_region

MEMORY_MIB = [gib << 10 for gib in (2, 16, 64, 256)]


def volume_prices(session: Session, configuration: JobConfiguration) -> list[VolumePriceView]:
    """Smallest job first. Prices as they are known now; a month is 730 hours."""
    region, now = newest_region(session), datetime.now(UTC)
    prices = load_prices(session, [], {region}, now, now)
    return [_priced(configuration, memory_mib, prices, region) for memory_mib in MEMORY_MIB]


def _priced(configuration: JobConfiguration, memory_mib: int, prices: Prices, region: str) -> VolumePriceView:
    settings = configuration.job_volume
    size_gib, made = settings.made_for(memory_mib, configuration.checkpoint.keep)
    amounts = billed(settings.volume_type, size_gib, made.iops, made.throughput_mib_per_second)
    rate = month_rate(prices, region, amounts)
    return VolumePriceView(
        memory_mib=memory_mib,
        size_gib=size_gib,
        iops=made.iops,
        throughput_mib_per_second=made.throughput_mib_per_second,
        region=region,
        usd_per_hour=None if rate is None else round(rate.micros / HOURS_A_MONTH / 1_000_000, 6),
        estimated=rate is not None and rate.estimated,
    )
