"""What a job's checkpoints in a store cost: requests as they were counted where they were made, bytes by the time for
which they were held. Pure; `store_entries` makes the ledger's lines of it.

A shared pack counts for the job that wrote it, for as long as it is there. S3 is the only store with a price. A shared
directory has one too, on AWS's bill, but nobody here knows it: its time counts as unpriced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise

from pydantic import Field

from perdure.domain.figures import Figures, LedgerEntry
from perdure.domain.prices import HOUR, Prices, Rate, milliseconds, slices, storage_micros
from perdure.domain.stays import dollars
from perdure.domain.values import Frozen

S3 = "s3"
_GIB = 1 << 30
STORAGE, WRITES, READS, KEYS = "s3", "s3-1000-writes", "s3-1000-reads", "kms-10000-requests"
"""Kinds of prices (perdure.domain.prices.Prices); a number in a name says how many requests it is for."""


class StoreUse(Frozen):
    """What was asked of a store for one job since the use before, and what lies there of the job from `at` (UTC) on.

    `use_id` is the key: told twice, it counts once. `writes`: requests at the price of PUT, listings too; `reads`: GET;
    deletions are free. `key_requests`: those that S3 made to KMS for them. `held_bytes` None: as at the use before.
    """

    use_id: str
    at: datetime
    store: str = S3
    """Its kind: `s3` or `directory`."""
    region: str = ""
    writes: int = Field(0, ge=0)
    reads: int = Field(0, ge=0)
    key_requests: int = Field(0, ge=0)
    held_bytes: int | None = Field(None, ge=0)


def store_entries(
    job_id: str, uses: Iterable[StoreUse], prices: Prices, until: datetime, hours_from: datetime | None = None
) -> Iterator[LedgerEntry]:
    """A line for each hour in which anything was asked of the store or held there, up to `until`; with `hours_from`, a
    whole hour, from there on. `uses` in any order; before `hours_from` the newest that names `held_bytes` is enough."""
    ordered = sorted((use for use in uses if use.at <= until), key=lambda use: (use.at, use.use_id))
    if not ordered:
        return
    spans: dict[datetime, list[tuple[datetime, datetime, int]]] = {}
    for start, end, held in _held(ordered, until):
        for first, last in slices(start, end, HOUR, hours_from):
            spans.setdefault(_hour(first), []).append((first, last, held))
    asked: dict[datetime, list[StoreUse]] = {}
    for use in ordered:
        if hours_from is None or use.at >= hours_from:
            asked.setdefault(_hour(use.at), []).append(use)
    for hour in sorted(spans.keys() | asked.keys()):
        counted = [use for use in asked.get(hour, []) if use.writes or use.reads or use.key_requests]
        if counted or hour in spans:
            yield _entry(job_id, hour, spans.get(hour, []), counted, ordered[-1], prices)


def _hour(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def _held(ordered: list[StoreUse], until: datetime) -> Iterator[tuple[datetime, datetime, int]]:
    """From when to when how many bytes lay there; not while there were none."""
    known = [(use.at, use.held_bytes) for use in ordered if use.held_bytes is not None]
    for (start, held), (end, _) in pairwise([*known, (until, 0)]):
        if held:
            yield start, end, held


def _entry(
    job_id: str,
    hour: datetime,
    spans: list[tuple[datetime, datetime, int]],
    asked: list[StoreUse],
    place: StoreUse,
    prices: Prices,
) -> LedgerEntry:
    """`place`: a use that says where the store is."""
    rates = {name: _rate(prices, name, place) for name in (STORAGE, WRITES, READS, KEYS)}
    writes, reads, keys = (sum(getattr(use, name) for use in asked) for name in ("writes", "reads", "key_requests"))
    rate = rates[STORAGE]
    storage = sum(
        0 if rate is None else storage_micros(rate, Fraction(held, _GIB), first, last) for first, last, held in spans
    )
    costs = {
        STORAGE: storage,
        WRITES: request_micros(rates[WRITES], writes, 1000),
        READS: request_micros(rates[READS], reads, 1000),
        KEYS: request_micros(rates[KEYS], keys, 10_000),
    }
    counts = {STORAGE: len(spans), WRITES: writes, READS: reads, KEYS: keys}
    guessed = [name for name, count in counts.items() if count and ((one := rates[name]) is None or one.estimated)]
    held_ms = sum(milliseconds(first, last) for first, last, _ in spans)
    byte_ms = sum(milliseconds(first, last) * held for first, last, held in spans)
    figures = Figures(
        store_micros=costs[STORAGE] + costs[WRITES] + costs[READS],
        key_micros=costs[KEYS],
        estimated_micros=sum(costs[name] for name in guessed),
        unpriced_ms=held_ms if rate is None else 0,
    )
    source = next((one.source for one in rates.values() if one is not None), "no price is known")
    return LedgerEntry(
        job_id=job_id,
        key=f"store/{hour:%Y-%m-%dT%H}",
        kind="store",
        at=min([*(first for first, _, _ in spans), *(use.at for use in asked)]),
        figures=figures,
        estimated=bool(guessed),
        detail={
            "store": place.store,
            "region": place.region,
            "gib_hours": round(byte_ms / 3_600_000 / _GIB, 6),
            "writes": writes,
            "reads": reads,
            "key_requests": keys,
            "usd_per_gib_month": _usd(rates[STORAGE]),
            "usd_per_1000_writes": _usd(rates[WRITES]),
            "usd_per_1000_reads": _usd(rates[READS]),
            "usd_per_10000_key_requests": _usd(rates[KEYS]),
            "source": source,
            "formula": "GiB held x price x seconds / seconds of the month, and requests x their prices",
        },
    )


def _rate(prices: Prices, kind: str, place: StoreUse) -> Rate | None:
    return prices.storage(kind, place.region) if place.store == S3 else None


def _usd(rate: Rate | None) -> str | None:
    return dollars(rate.micros if rate else None)


def request_micros(rate: Rate | None, requests: int, per: int) -> int:
    """What so many requests cost at a price for `per` of them, to the nearest micro-dollar."""
    return 0 if rate is None else (2 * rate.micros * requests + per) // (2 * per)
