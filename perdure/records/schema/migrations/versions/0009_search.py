"""Finding jobs by text, the indexes of lists, and positions: one count over everything that is recorded."""

from __future__ import annotations

import sqlalchemy as sa
import structlog
from alembic import op
from sqlalchemy.exc import DBAPIError

from perdure.records.jobs.job_texts import text_of
from perdure.records.schema.tables import BigPrimary, Instant

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

log = structlog.get_logger(__name__)
_JOB_INDEXES = {
    "ix_jobs_queue_state": ["queue", "state", "created_at", "job_id"],
    "ix_jobs_finished": ["finished_at", "job_id"],
    "ix_jobs_name": ["name", "job_id"],
    "ix_jobs_protections": ["protections", "job_id"],
    "ix_jobs_position": ["position"],
}
_NODE_INDEXES = {
    "ix_nodes_first_seen": ["first_seen_at", "instance_id"],
    "ix_nodes_ended": ["ended_at", "instance_id"],
    "ix_nodes_position": ["position"],
    "ix_nodes_state": ["state", "instance_id"],
}
_LINES = "job_id, sequence, at, kind, message, level, epoch"
_IN_STEP = """
    CREATE TRIGGER job_texts_added AFTER INSERT ON job_texts BEGIN
      INSERT INTO job_texts_search(rowid, text) VALUES (new.number, new.text);
    END;
    CREATE TRIGGER job_texts_gone AFTER DELETE ON job_texts BEGIN
      INSERT INTO job_texts_search(job_texts_search, rowid, text) VALUES ('delete', old.number, old.text);
    END;
    CREATE TRIGGER job_texts_changed AFTER UPDATE ON job_texts BEGIN
      INSERT INTO job_texts_search(job_texts_search, rowid, text) VALUES ('delete', old.number, old.text);
      INSERT INTO job_texts_search(rowid, text) VALUES (new.number, new.text);
    END;
"""
"""As https://www.sqlite.org/fts5.html#external_content_tables says."""


def upgrade() -> None:
    """Forward."""
    positions = op.create_table(
        "positions",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    lines = _number_events()
    op.bulk_insert(positions, [{"name": "changes", "last": lines}])
    for table in ("jobs", "nodes"):
        op.add_column(table, sa.Column("position", sa.BigInteger(), nullable=False, server_default="0"))
    op.drop_index("ix_nodes_state", table_name="nodes")
    for table, indexes in (("jobs", _JOB_INDEXES), ("nodes", _NODE_INDEXES)):
        for name, columns in indexes.items():
            op.create_index(name, table, columns)
    op.create_table(
        "job_texts",
        sa.Column("number", BigPrimary, nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("job_id"),
    )
    _index_texts()
    _fill_texts()


def _number_events() -> int:
    """Give each line a position, by time, as its key. Returns how many there are."""
    op.execute(f"CREATE TABLE events_kept AS SELECT {_LINES} FROM events")
    op.drop_table("events")
    op.create_table("events", sa.Column("position", BigPrimary, nullable=False, autoincrement=False), *_event_columns())
    op.create_index("ix_events_job", "events", ["job_id", "sequence"], unique=True)
    op.create_index("ix_events_at", "events", ["at", "position"])
    op.create_index("ix_events_kind", "events", ["kind", "at", "position"])
    others = sa.text("level <> 'info'")
    op.create_index("ix_events_level", "events", ["at", "position"], sqlite_where=others, postgresql_where=others)
    op.execute(
        f"INSERT INTO events (position, {_LINES})"
        f" SELECT row_number() OVER (ORDER BY at, job_id, sequence), {_LINES} FROM events_kept"
    )
    op.drop_table("events_kept")
    count: int = op.get_bind().execute(sa.text("SELECT count(*) FROM events")).scalar_one()
    return count


def _event_columns() -> list[sa.schema.SchemaItem]:
    return [
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("level", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("position"),
    ]


def _index_texts() -> None:
    """The index of trigrams: FTS5 in SQLite; in PostgreSQL pg_trgm, if this user may create it."""
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE job_texts_search USING"
            " fts5(text, content='job_texts', content_rowid='number', tokenize='trigram case_sensitive 1')"
        )
        for statement in _IN_STEP.strip().split("END;")[:-1]:
            op.execute(statement + "END")
        return
    try:
        with connection.begin_nested():
            connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
            connection.execute(sa.text("CREATE INDEX ix_job_texts_trigrams ON job_texts USING gin (text gin_trgm_ops)"))
    except DBAPIError as problem:
        log.warning(
            "jobs are found by text without an index, slowly in long lists: the extension pg_trgm cannot be made;"
            " let a superuser run CREATE EXTENSION pg_trgm and"
            " CREATE INDEX ix_job_texts_trigrams ON job_texts USING gin (text gin_trgm_ops)",
            problem=str(problem.orig),
        )


def _fill_texts() -> None:
    connection = op.get_bind()
    jobs = connection.execute(sa.text("SELECT job_id, name, queue FROM jobs ORDER BY created_at"))
    adding = sa.text("INSERT INTO job_texts (job_id, text) VALUES (:job_id, :text)")
    for some in jobs.partitions(1000):
        connection.execute(adding, [{"job_id": row[0], "text": text_of(*row)} for row in some])


def downgrade() -> None:
    """Back."""
    if op.get_bind().dialect.name == "sqlite":
        op.drop_table("job_texts_search")
    op.drop_table("job_texts")
    for table, indexes in (("jobs", _JOB_INDEXES), ("nodes", _NODE_INDEXES)):
        for name in indexes:
            op.drop_index(name, table_name=table)
        # Not in a batch: that drops the table, and what refers to it goes along.
        op.execute(f"ALTER TABLE {table} DROP COLUMN position")
    op.create_index("ix_nodes_state", "nodes", ["state"])
    op.execute(f"CREATE TABLE events_kept AS SELECT {_LINES} FROM events")
    op.drop_table("events")
    first, *columns, reference, _ = _event_columns()
    op.create_table("events", first, *columns, reference, sa.PrimaryKeyConstraint("job_id", "sequence"))
    op.execute(f"INSERT INTO events ({_LINES}) SELECT {_LINES} FROM events_kept")
    op.drop_table("events_kept")
    op.drop_table("positions")
