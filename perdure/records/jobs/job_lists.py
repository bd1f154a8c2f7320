"""Pages of jobs: filtered, found by text, in several orders; equally fast at any depth.

The cost of every query is bounded:

- By creation, the usual order: indexes hold the jobs of each queue and state in this order. Each wanted queue and state
  is read along its index. The code calls that a walk. The walks are merged.
- In any other order the index of that order is read. Jobs that the filter does not want are left out.
- Jobs of a node are few: they are all sorted; so are unprotected jobs while they are few. A zone alone has an index of
  its own. Beside a queue or state, a zone that few jobs have is sorted; any other has so large a share of all jobs that
  the walks find enough of them soon.
- With a text, the next jobs of the order are read, and the text of each is looked at. If they do not fill the page, the
  text is looked up in the index of trigrams. If few jobs have it (FEW_MATCHES), these are sorted. If many have it, the
  reading goes on. One page looks at a bounded number of jobs (SCANNED), so a page may be short while more follow.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import product
from math import prod
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    Select,
    Subquery,
    bindparam,
    func,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.sql.elements import UnaryExpression
from sqlalchemy.sql.operators import custom_op
from sqlmodel import Session

from perdure.domain.jobs import JobOrder, JobState
from perdure.domain.values import Frozen
from perdure.records.jobs.job_texts import by_index, contains, few_matches
from perdure.records.schema.list_tables import JobTextRow
from perdure.records.schema.pages import Key, Keyset, Page
from perdure.records.schema.tables import JobRow, plain

FEW_MATCHES = 5000
"""A text or filter that fewer jobs have is rare: they are all sorted."""
SCANNED = (1000, 3000, 6000)
"""Jobs whose texts are looked at for one page: the next 1,000, and more if these do not fill it."""
MOST_WALKS = 40
"""Combinations of queues and states that get a walk of their own."""


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
    instance_id: str | None
    zone: str | None


class JobFilter(Frozen):
    """Which jobs. Empty: all. A time range holds its beginning but not its end."""

    queues: frozenset[str] = frozenset()
    states: frozenset[JobState] = frozenset()
    zones: frozenset[str] = frozenset()
    """Where the newest container is or was; the same for …"""
    nodes: frozenset[str] = frozenset()
    """… these instances."""
    unprotected: bool = False
    """Only jobs that a reclaim would cost, or would have cost, their work."""
    text: str = ""
    created_after: datetime | None = None
    created_before: datetime | None = None
    finished_after: datetime | None = None
    finished_before: datetime | None = None


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
        walk.go_on_after(walk.keyset.read(after))
    if session.get_bind().dialect.name == "sqlite":
        walk.choose_index(session)
    if not where.text:
        lines = _first(session, walk, limit + 1)
        return walk.keyset.page(lines, limit, walk.key)
    keys, following = _with_text(session, walk, limit)
    return Page(items=_lines(session, [job_id for _, job_id in keys]), next=following)


def without_index(column: Any) -> Any:
    """The column for a condition that shall use no index. https://www.sqlite.org/optoverview.html, section 8.1.1."""
    return UnaryExpression(column, operator=custom_op("+"), type_=column.type)


_NOTHING: Any = literal_column("''")
"""As the index of unprotected jobs says it: a value that is sent beside the query is not known to be the same."""
_By = Literal["filter", "zones", "nodes", "unprotected", "order"]
"""Which condition a database may use an index for."""


class _Walk:
    """The way through one list."""

    def __init__(self, where: JobFilter, order: JobOrder) -> None:
        self.where = where
        self.whole: dict[str, Any] = {
            "queues": where.queues,
            "states": where.states,
            "zones": where.zones,
            "unprotected": where.unprotected,
        }
        """The filter as `matching` takes it."""
        self._name = order.removeprefix("-")
        wanted = (where.queues, where.states, where.zones, where.nodes)
        asked = ["jobs", *map(sorted, wanted), order, *_ranges(where), *(["unprotected"] if where.unprotected else [])]
        self._order_by = functools.partial(Keyset, down=order.startswith("-"), question=asked)
        self.keyset = self._order_by(_JOB[self._name], _JOB.job_id)
        self.columns = (self.keyset.columns[0].label("key"), _JOB.job_id)
        self.after: Key | None = None
        self._by: _By | None = None

    def go_on_after(self, key: Key | None) -> None:
        """None: from the beginning."""
        self.after = key

    def choose_index(self, session: Session) -> None:
        """For SQLite, which counts on every filter leaving few rows, and would sort a million: by which condition it
        may look jobs up. None of them: it is kept to the list's order."""
        where = self.where
        filtered = bool(where.queues or where.states)
        if where.nodes:
            self._by = "nodes"
        elif where.unprotected and self._few(session, unprotected=True):
            self._by = "unprotected"
            self.keyset = self._order_by(without_index(_JOB[self._name]), without_index(_JOB.job_id))
        elif where.zones and ((self._name == "created_at" and not filtered) or self._few(session, zones=where.zones)):
            self._by = "zones"
        elif self._name == "created_at" or (filtered and self._few(session, queues=where.queues, states=where.states)):
            self._by = "filter"
        else:
            self._by = "order"

    def _few(self, session: Session, **some: Any) -> bool:
        found = self.matching([_JOB.job_id], everywhere=True, **some).limit(FEW_MATCHES + 1).subquery()
        counted: int = session.execute(select(func.count()).select_from(found)).scalar_one()
        return counted <= FEW_MATCHES

    def key(self, line: JobLine) -> Key:
        """What the job is sorted by, and its id."""
        return getattr(line, self._name), line.job_id

    @property
    def is_one(self) -> bool:
        """Does it follow one index, instead of merging several walks?"""
        return len(self._branches()) == 1

    def query(self, columns: Iterable[Any], limit: int) -> Select[Any]:
        """The first `limit` jobs after the cursor."""
        branches = [self.sorted(self.matching(columns, **some)).limit(limit) for some in self._branches()]
        if len(branches) == 1:
            return branches[0]
        merged = union_all(*(select(branch.subquery()) for branch in branches)).subquery()
        return select(merged).order_by(*self.keyset.directed(merged.c.key, merged.c.job_id)).limit(limit)

    def matching(
        self,
        columns: Iterable[Any],
        *,
        queues: Iterable[str] = (),
        states: Iterable[JobState] = (),
        zones: Iterable[str] = (),
        unprotected: bool = False,
        everywhere: bool = False,
    ) -> Select[Any]:
        """Jobs of these queues, states and zones (empty: any), or the unprotected of them, unsorted; unless
        `everywhere`, those of the filter's nodes and times after the cursor."""
        where, query = self.where, select(*columns)
        nodes = () if everywhere else where.nodes
        conditions: tuple[tuple[_By, Any, Iterable[str]], ...] = (
            ("filter", _JOB.queue, queues),
            ("filter", _JOB.state, states),
            ("zones", _JOB.zone, zones),
            ("nodes", _JOB.instance_id, nodes),
        )
        for kind, column, wanted in conditions:
            if values := sorted(map(str, wanted)):
                usable: Any = column if self._by in (None, kind) else without_index(column)
                query = query.where(usable == values[0] if len(values) == 1 else usable.in_(values))
        if unprotected:
            usable = _JOB.unprotected if self._by in (None, "unprotected") else without_index(_JOB.unprotected)
            query = query.where(usable != _NOTHING)
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
        return query.where(self.keyset.beyond(self.after)) if self.after else query

    def _branches(self) -> list[dict[str, Any]]:
        """What each walk follows, as `matching` takes it."""
        where, whole = self.where, self.whole
        if self._name != "created_at" or where.nodes or self._by == "unprotected":
            return [whole]
        # A zone beside a queue or state is looked at along their walks.
        split = ["queues", "states"] if where.queues or where.states else ["zones"]
        if prod(max(1, len(whole[name])) for name in split) > MOST_WALKS:
            return [whole]
        ways = product(*([[one] for one in sorted(whole[name])] or [[]] for name in split))
        return [whole | dict(zip(split, way, strict=True)) for way in ways]

    def sorted(self, query: Select[Any]) -> Select[Any]:
        """A query of jobs in this list's order."""
        return query.order_by(*self.keyset.directed())

    def sorted_keys(self, keys: Subquery) -> Select[Any]:
        """Keys that a query found, in this list's order: the database's own, which for names is not Python's."""
        return select(keys.c.key, keys.c.job_id).order_by(*self.keyset.directed(keys.c.key, keys.c.job_id))


def _first(session: Session, walk: _Walk, limit: int) -> list[JobLine]:
    """The first `limit` jobs after the cursor. Where walks are merged, by their keys: putting a union of all columns
    together takes longer than another query."""
    if walk.is_one:
        return [job_line(row) for row in session.execute(walk.query(COLUMNS, limit)).all()]
    return _lines(session, [job_id for _, job_id in session.execute(walk.query(walk.columns, limit)).all()])


def _sorted(session: Session, walk: _Walk, limit: int, numbers: list[int]) -> tuple[list[Key], str | None]:
    """The page of a text that few jobs have: `numbers`. All are sorted: a database that is told of a limit may walk
    the whole list for those few."""
    query = walk.matching(walk.columns, **walk.whole)
    query = query.join(_TEXTS, _TEXTS.c.job_id == _JOB.job_id)
    rows = session.execute(walk.sorted(query.where(_TEXTS.c.number.in_(numbers)))).all()
    keys = [(row[0], row[1]) for row in rows[: limit + 1]]
    page = walk.keyset.page(keys, limit, tuple)
    return page.items, page.next


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
        return found[:limit], walk.keyset.write(*found[limit - 1])
    return found, walk.keyset.write(*last) if last else None


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
