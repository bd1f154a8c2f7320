"""Pages of jobs: filtered, found by text, in several orders; equally fast at any depth.

Every query has a bounded cost. In the usual order (by creation) each wanted queue and state is a walk of its own along
an index, and the walks are merged. Other orders walk their index and leave out what does not fit. For a text the order
is walked and each job's text looked at. If that does not fill the page soon, the text is looked up in the index of
trigrams; if few jobs have it, these are sorted, and else the walk goes on: SCANNED jobs per page at most, so that a
page may be short while more follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import product
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    String,
    Subquery,
    bindparam,
    func,
    literal,
    select,
    tuple_,
    type_coerce,
    union_all,
)
from sqlalchemy.sql.elements import UnaryExpression
from sqlalchemy.sql.operators import custom_op
from sqlmodel import Session

from perdure.domain.jobs import JobState
from perdure.domain.values import Frozen
from perdure.records.jobs.job_texts import by_index, contains, few_matches
from perdure.records.schema.list_tables import JobTextRow
from perdure.records.schema.pages import Page, decode_bound_cursor, encode_cursor, fingerprint
from perdure.records.schema.tables import JobRow, plain

FEW_MATCHES = 5000
"""A text or filter that fewer jobs have is rare: they are all sorted."""
SCANNED = (1000, 3000, 6000)
"""Jobs whose texts are looked at for one page: the next 1,000, and more if these do not fill it."""
MOST_WALKS = 40
"""Combinations of queues and states that get a walk of their own."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class JobLine(NamedTuple):
    """A job in a list: nothing that needs another table."""

    job_id: str
    name: str
    queue: str
    state: JobState
    batch_status: str | None
    exit_code: int | None
    vcpus: float | None
    memory_mib: int | None
    created_at: datetime
    changed_at: datetime | None
    finished_at: datetime | None
    protections: int
    checkpoints_committed: int
    checkpoint_failures: int
    volume_zone: str | None
    max_rootfs_bytes: int | None
    attempts_left: int | None
    unprotected: str


class JobFilter(Frozen):
    """Which jobs. Empty: all. A time range holds its beginning but not its end."""

    queues: frozenset[str] = frozenset()
    states: frozenset[JobState] = frozenset()
    text: str = ""
    created_after: datetime | None = None
    created_before: datetime | None = None
    finished_after: datetime | None = None
    finished_before: datetime | None = None


class JobOrder(StrEnum):
    """What a list is sorted by; `-`: the largest first. Jobs without a finish are not in a list sorted by it."""

    NEWEST = "-created_at"
    OLDEST = "created_at"
    LAST_FINISHED = "-finished_at"
    FIRST_FINISHED = "finished_at"
    NAME = "name"
    NAME_DOWN = "-name"
    MOST_PROTECTIONS = "-protections"
    FEWEST_PROTECTIONS = "protections"


_JOB = plain(JobRow).c
_TEXTS = plain(JobTextRow)
COLUMNS = tuple(_JOB[name] for name in JobLine._fields)
_STATE = JobLine._fields.index("state")
_STATES = {str(state): state for state in JobState}


def job_line(row: Sequence[Any]) -> JobLine:
    """A row of COLUMNS."""
    return JobLine._make((*row[:_STATE], _STATES[row[_STATE]], *row[_STATE + 1 :]))


def list_jobs(
    session: Session,
    *,
    limit: int = 50,
    after: str | None = None,
    where: JobFilter = JobFilter(),  # noqa: B008 - immutable
    order: JobOrder = JobOrder.NEWEST,
) -> Page[JobLine]:
    """The jobs that `where` asks for, in `order`; those alike by their ids.

    `after` is the `next` of the page before; ConfigurationInvalid when it is anything else, or of another list.
    """
    walk = _Walk(where, order)
    if after is not None:
        walk.begin_after(after)
    if session.get_bind().dialect.name == "sqlite":
        walk.insist_on_order(session)
    if not where.text:
        lines = _first(session, walk, limit + 1)
        return Page(items=lines[:limit], next=walk.cursor(walk.key(lines[limit - 1])) if len(lines) > limit else None)
    keys, following = _with_text(session, walk, limit)
    return Page(items=_lines(session, [job_id for _, job_id in keys]), next=following)


def without_index(column: Any) -> Any:
    """The column for a condition that shall use no index. https://www.sqlite.org/optoverview.html, section 8.1.1."""
    return UnaryExpression(column, operator=custom_op("+"), type_=column.type)


Key = tuple[Any, str]
"""Where a job stands in a list: what it is sorted by (instants in microseconds), and its id."""


class _Walk:
    """The way through one list."""

    def __init__(self, where: JobFilter, order: JobOrder) -> None:
        self.where = where
        self._name = order.removeprefix("-")
        self._down = order.startswith("-")
        column = _JOB[self._name]
        self._type = String() if self._name == "name" else BigInteger()
        self.columns = (type_coerce(column, self._type).label("key"), _JOB.job_id)
        self._fingerprint = fingerprint("jobs", sorted(where.queues), sorted(where.states), order, *_ranges(where))
        self.after: Key | None = None
        self._insists = False

    def begin_after(self, cursor: str) -> None:
        kind = str if self._name == "name" else int
        key, job_id = decode_bound_cursor(cursor, self._fingerprint, kind, str)
        self.go_on_after((key, str(job_id)))

    def go_on_after(self, key: Key | None) -> None:
        """None: from the beginning."""
        self.after = key

    def insist_on_order(self, session: Session) -> None:
        """SQLite counts on every filter leaving few rows, and would sort a million. So it is kept from using the
        filter's index when more than FEW_MATCHES are left."""
        if self._name == "created_at" or not (self.where.queues or self.where.states):
            return
        some = self.matching([_JOB.job_id], self.where.queues, self.where.states, everywhere=True)
        counted = select(func.count()).select_from(some.limit(FEW_MATCHES + 1).subquery())
        self._insists = session.execute(counted).scalar_one() > FEW_MATCHES

    def cursor(self, key: Key) -> str:
        return encode_cursor(self._fingerprint, *key)

    def key(self, line: JobLine) -> Key:
        value = getattr(line, self._name)
        return (value - _EPOCH) // timedelta(microseconds=1) if isinstance(value, datetime) else value, line.job_id

    @property
    def is_one(self) -> bool:
        """Does it follow one index, instead of merging several walks?"""
        return len(self._branches()) == 1

    def query(self, columns: Iterable[Any], limit: int) -> Select[Any]:
        """The first `limit` jobs after the cursor."""
        branches = [self.sorted(self.matching(columns, *some)).limit(limit) for some in self._branches()]
        if len(branches) == 1:
            return branches[0]
        merged = union_all(*(select(branch.subquery()) for branch in branches)).subquery()
        return select(merged).order_by(*self._direction(merged.c.key, merged.c.job_id)).limit(limit)

    def matching(
        self, columns: Iterable[Any], queues: Iterable[str], states: Iterable[JobState], *, everywhere: bool = False
    ) -> Select[Any]:
        """Jobs of these queues and states (empty: any), unsorted; unless `everywhere`, within the filter's times and
        after the cursor."""
        where, query = self.where, select(*columns)
        for column, values in ((_JOB.queue, sorted(queues)), (_JOB.state, sorted(map(str, states)))):
            if values:
                plain: Any = without_index(column) if self._insists else column
                query = query.where(plain == values[0] if len(values) == 1 else plain.in_(values))
        if everywhere:
            return query
        created, finished = _JOB.created_at, _JOB.finished_at
        if self._name == "finished_at" and where.finished_after is None:
            query = query.where(finished.is_not(None))
        if where.created_after is not None:
            query = query.where(created >= where.created_after)
        if where.finished_after is not None:
            query = query.where(finished >= where.finished_after)
        if where.finished_before is not None:
            query = query.where(finished < where.finished_before)
        # No job is finished before it is created: so a walk by creation begins where the first can be.
        ends = [end for end in (where.created_before, where.finished_before) if end is not None]
        if ends:
            query = query.where(created < min(ends))
        return query.where(self._beyond()) if self.after else query

    def _branches(self) -> list[tuple[Iterable[str], Iterable[JobState]]]:
        queues, states = self.where.queues, self.where.states
        if self._name != "created_at" or max(1, len(queues)) * max(1, len(states)) > MOST_WALKS:
            return [(queues, states)]
        return list(product([[one] for one in sorted(queues)] or [[]], [[one] for one in sorted(states)] or [[]]))

    def sorted(self, query: Select[Any]) -> Select[Any]:
        """A query of jobs in this list's order."""
        return query.order_by(*self._direction(_JOB[self._name], _JOB.job_id))

    def sorted_keys(self, keys: Subquery) -> Select[Any]:
        """Keys that a query found, in this list's order: the database's own, which for names is not Python's."""
        return select(keys.c.key, keys.c.job_id).order_by(*self._direction(keys.c.key, keys.c.job_id))

    def _direction(self, *columns: Any) -> list[Any]:
        return [column.desc() if self._down else column for column in columns]

    def _beyond(self) -> ColumnElement[bool]:
        assert self.after is not None
        key, job_id = self.after
        here = tuple_(type_coerce(_JOB[self._name], self._type), _JOB.job_id)
        there = tuple_(literal(key, self._type), literal(job_id, String()))
        return here < there if self._down else here > there


def _first(session: Session, walk: _Walk, limit: int) -> list[JobLine]:
    """The first `limit` jobs after the cursor. Where walks are merged, by their keys: putting a union of all columns
    together takes longer than another query."""
    if walk.is_one:
        return [job_line(row) for row in session.execute(walk.query(COLUMNS, limit)).all()]
    return _lines(session, [job_id for _, job_id in session.execute(walk.query(walk.columns, limit)).all()])


def _sorted(session: Session, walk: _Walk, limit: int, numbers: list[int]) -> tuple[list[Key], str | None]:
    """The page of a text that few jobs have: `numbers`. All are sorted: a database that is told of a limit may walk
    the whole list for those few."""
    query = walk.matching(walk.columns, walk.where.queues, walk.where.states)
    query = query.join(_TEXTS, _TEXTS.c.job_id == _JOB.job_id)
    rows = session.execute(walk.sorted(query.where(_TEXTS.c.number.in_(numbers)))).all()
    keys = [(row[0], row[1]) for row in rows[: limit + 1]]
    return keys[:limit], walk.cursor(keys[limit - 1]) if len(keys) > limit else None


def _with_text(session: Session, walk: _Walk, limit: int) -> tuple[list[Key], str | None]:
    """A page of a text: of the next jobs if enough of them have it, else by the index if few jobs have it, else of as
    many jobs as are looked at for one page."""
    begin = walk.after
    found, last = _look(session, walk, SCANNED[0])
    if last is not None and len(found) <= limit:
        numbers = few_matches(session, walk.where.text, FEW_MATCHES)
        if numbers is not None:
            walk.go_on_after(begin)
            return _sorted(session, walk, limit, numbers)
        for count in SCANNED[1:]:
            walk.go_on_after(last)
            more, last = _look(session, walk, count)
            found += more
            if last is None or len(found) > limit:
                break
    if len(found) > limit:
        return found[:limit], walk.cursor(found[limit - 1])
    return found, walk.cursor(last) if last else None


def _look(session: Session, walk: _Walk, count: int) -> tuple[list[Key], Key | None]:
    """Which of the next `count` jobs have the text, and the last one that was looked at; None: there are no more."""
    looked_at = walk.query(walk.columns, count).subquery()
    keys = walk.sorted_keys(looked_at).join(_TEXTS, _TEXTS.c.job_id == looked_at.c.job_id)
    with by_index(session):
        rows = session.execute(keys.where(contains(session, walk.where.text))).all()
        last = session.execute(walk.query(walk.columns, count).limit(1).offset(count - 1)).first()
    return [(row[0], row[1]) for row in rows], (last[0], last[1]) if last else None


_BY_ID = select(*COLUMNS).where(_JOB.job_id.in_(bindparam("ids", expanding=True)))


def _lines(session: Session, ids: list[str]) -> list[JobLine]:
    """These jobs, in this order."""
    lines = {line.job_id: line for line in map(job_line, session.execute(_BY_ID, {"ids": ids}).all())}
    return [lines[job_id] for job_id in ids]


def _ranges(where: JobFilter) -> tuple[Any, ...]:
    return (where.text, where.created_after, where.created_before, where.finished_after, where.finished_before)
