"""Rollups: the ledger's sums by minute, hour, day and four weeks, per queue. Kept by difference, in the transaction of
the lines that they count; cut back with time; made anew from the lines as a repair.

Two rows per bucket and queue: the sum of the lines that exist, and (`retired`) of those whose jobs' records are gone.
So a job can go without its totals, and the first kind can be made anew at any time.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, Insert, cast, delete, false, func, insert, literal, select, text, type_coerce
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from perdure.domain.rollups import LENGTH, Level, bucket_start, kept_since
from perdure.records.schema.ledger_tables import FIGURES, ledger, rollups
from perdure.records.schema.tables import Instant

_ORDER = {level: number for number, level in enumerate(Level)}
_KEY = ("level", "bucket", "queue", "retired")


class Changes:
    """What lines that came, changed or went mean for the rollups: collected first, then applied at once."""

    def __init__(self) -> None:
        self._sums: dict[tuple[Level, datetime, str, bool], list[int]] = {}

    def add(self, at: datetime, queue: str, figures: Iterable[int], sign: int = 1, retired: bool = False) -> None:
        """Count a line (sign 1), or take one back (-1). `figures`: in the order of FIGURES."""
        values = [sign * value for value in figures]
        if not any(values):
            return
        for level in Level:
            sums = self._sums.setdefault((level, bucket_start(level, at), queue, retired), [0] * len(FIGURES))
            for index, value in enumerate(values):
                sums[index] += value

    def apply(self, session: Session) -> None:
        """Write them: once per transaction, and last in it. All rows are locked in one order (minutes first), so
        that writers never block each other for good, and the rows that all writers need are held for the shortest
        time."""
        ordered = sorted(self._sums.items(), key=lambda item: (_ORDER[item[0][0]], *item[0][1:]))
        rows = [
            dict(zip((*_KEY, *FIGURES), (*key, *sums), strict=True))  # one dictionary of parameters per row
            for key, sums in ordered
            if any(sums)
        ]
        if rows:
            session.connection().execute(_adding(session.get_bind().dialect.name), rows)
        self._sums = {}


@lru_cache
def _adding(dialect: str) -> Any:
    """INSERT, or add to what is there: the database adds, so no writer works on a sum that is out of date."""
    statement = postgresql.insert(rollups) if dialect == "postgresql" else sqlite.insert(rollups)
    added = {name: rollups.c[name] + statement.excluded[name] for name in FIGURES}
    return statement.on_conflict_do_update(index_elements=list(_KEY), set_=added)


def prune_rollups(session: Session, now: datetime) -> int:
    """Delete the buckets that are no longer kept (domain.rollups.KEPT_DAYS). Returns how many rows went."""
    gone = 0
    for level in Level:
        since = kept_since(level, now)
        if since is not None:
            old = delete(rollups).where(rollups.c.level == str(level), rollups.c.bucket < since)
            gone += session.connection().execute(old).rowcount
    return gone


def rebuild_rollups(session: Session, now: datetime | None = None) -> None:
    """Make the rollups of all lines that exist anew, in SQL; totals of jobs that are gone stay. A repair, and quick
    after a bulk load. Writers wait for the end of the transaction. With `now`, old buckets are pruned as well.
    """
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE ledger, rollups IN SHARE ROW EXCLUSIVE MODE"))
    connection.execute(delete(rollups).where(rollups.c.retired == false()))
    finer = None
    for level in Level:
        connection.execute(_summing(level, finer))
        finer = level
    if now is not None:
        prune_rollups(session, now)


def _summing(level: Level, finer: Level | None) -> Insert:
    """Fill a level from the next finer one; the finest from the ledger."""
    source, at = (ledger, ledger.c.at) if finer is None else (rollups, rollups.c.bucket)
    micros = type_coerce(at, BigInteger)
    length = literal(int(LENGTH[level].total_seconds()) * 1_000_000, BigInteger)
    bucket = type_coerce(micros - micros % length, Instant).label("bucket")
    # PostgreSQL's sums of integers are numeric
    sums = [cast(func.sum(source.c[name]), BigInteger) for name in FIGURES]
    lines = select(literal(str(level)), bucket, source.c.queue, false(), *sums).group_by(bucket, source.c.queue)
    if finer is not None:
        lines = lines.where(rollups.c.level == str(finer), rollups.c.retired == false())
    return insert(rollups).from_select([*_KEY, *FIGURES], lines)
