"""Whether a database has the tables of the code."""

from __future__ import annotations

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine

from perdure.records.schema.all_tables import METADATA
from perdure.records.schema.list_tables import JOB_TEXT_INDEX, JOB_TEXT_SEARCH


def differences(engine: Engine) -> list[Any]:
    """What a migration would still have to do; empty if nothing."""

    def ours(_: object, name: str | None, kind: str, *__: object) -> bool:
        # Indexes of trigrams: each exists in one of the two databases only, FTS5's as tables of its own.
        return not (name or "").startswith((JOB_TEXT_SEARCH, JOB_TEXT_INDEX))

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": ours})
        return list(compare_metadata(context, METADATA))
