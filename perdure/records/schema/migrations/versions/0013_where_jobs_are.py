"""Where a job's newest container is, beside the job: lists are filtered by it. And where its output goes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_INDEXES = {"ix_jobs_zone": "zone", "ix_jobs_instance": "instance_id"}
_NEWEST = "(SELECT {column} FROM attempts WHERE attempts.job_id = jobs.job_id ORDER BY attempts.epoch DESC LIMIT 1)"


def upgrade() -> None:
    """Forward."""
    for column in _INDEXES.values():
        op.add_column("jobs", sa.Column(column, sa.String(), nullable=True))
    op.add_column("jobs", sa.Column("log_group", sa.String(), nullable=False, server_default=""))
    op.add_column("attempts", sa.Column("log_stream", sa.String(), nullable=False, server_default=""))
    copied = ", ".join(f"{column} = {_NEWEST.format(column=column)}" for column in _INDEXES.values())
    op.execute(f"UPDATE jobs SET {copied}")
    for name, column in _INDEXES.items():
        op.create_index(name, "jobs", [column, "created_at", "job_id"])


def downgrade() -> None:
    """Back."""
    for name in _INDEXES:
        op.drop_index(name, table_name="jobs")
    # Not in a batch: that drops the table, and what refers to it goes along.
    op.execute("ALTER TABLE attempts DROP COLUMN log_stream")
    for column in ("log_group", *_INDEXES.values()):
        op.execute(f"ALTER TABLE jobs DROP COLUMN {column}")
