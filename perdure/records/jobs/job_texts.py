"""Finding jobs by text: any part of the id, name or queue, whatever its case.

Each job has one folded text; both databases hold an index of its trigrams. A text is always taken literally. What an
index of trigrams cannot say (fewer than three characters; on PostgreSQL also no three letters or digits in a row, or
no right to create pg_trgm) is found by looking at the texts of a bounded number of jobs: see records.job_lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import ColumnElement, func, text
from sqlmodel import Session, col, select

from perdure.domain.jobs import Job
from perdure.records.schema.list_tables import JOB_TEXT_INDEX, JOB_TEXT_SEARCH, JobTextRow

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_WORD = re.compile(r"[^\W_]{3}")
"""pg_trgm looks at letters and digits only."""


def fold(words: str) -> str:
    """As it is compared: case is gone, control characters are spaces."""
    return _CONTROL.sub(" ", words.casefold())


def text_of(job_id: str, name: str, queue: str) -> str:
    """What a job is found by. No search text can hold the line breaks between the parts."""
    return "\n".join(fold(part) for part in (job_id, name, queue))


def keep_text(session: Session, job: Job) -> None:
    """Store what the job is found by, or bring it up to date."""
    row = session.exec(select(JobTextRow).where(JobTextRow.job_id == job.job_id)).first()
    if row is None:
        row = JobTextRow(job_id=job.job_id, text="")
    row.text = text_of(job.job_id, job.name, job.queue)
    session.add(row)


def contains(session: Session, words: str) -> ColumnElement[bool]:
    """Is `words` part of a job's text?"""
    place = func.instr if _dialect(session) == "sqlite" else func.strpos
    return place(col(JobTextRow.text), fold(words)) > 0


@contextmanager
def by_index(session: Session) -> Iterator[None]:
    """Queries that use indexes wherever there is one: PostgreSQL's planner guesses badly how often a text occurs, and
    would rather read the whole table."""
    postgresql = _dialect(session) == "postgresql"
    if postgresql:
        session.execute(text("SET LOCAL enable_seqscan = off"))
    yield
    if postgresql:  # after an error the transaction, and this with it, is over anyhow
        session.execute(text("SET LOCAL enable_seqscan = on"))


def few_matches(session: Session, words: str, most: int) -> list[int] | None:
    """Numbers (job_texts) of the jobs with `words` in their text, by the index of trigrams. None: there are more than
    `most`, or the index cannot say."""
    folded = fold(words)
    if _dialect(session) == "sqlite":
        found = _sqlite_matches(session, folded, most + 1) if len(folded) >= 3 else None
    else:
        found = _postgresql_matches(session, folded, most + 1)
    return None if found is None or len(found) > most else found


def _sqlite_matches(session: Session, folded: str, limit: int) -> list[int]:
    query = text(f"SELECT rowid FROM {JOB_TEXT_SEARCH} WHERE {JOB_TEXT_SEARCH} MATCH :phrase LIMIT :limit")
    phrase = '"' + folded.replace('"', '""') + '"'
    return list(session.execute(query, {"phrase": phrase, "limit": limit}).scalars())


def _postgresql_matches(session: Session, folded: str, limit: int) -> list[int] | None:
    indexed = text("SELECT 1 FROM pg_indexes WHERE indexname = :name AND schemaname = ANY (current_schemas(false))")
    if not _WORD.search(folded) or session.execute(indexed, {"name": JOB_TEXT_INDEX}).first() is None:
        return None
    query = select(JobTextRow.number).where(col(JobTextRow.text).contains(folded, autoescape=True)).limit(limit)
    with by_index(session):
        return list(session.execute(query).scalars())


def _dialect(session: Session) -> str:
    return session.get_bind().dialect.name
