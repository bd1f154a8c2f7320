"""Where the checkpoints of a job without a volume lie, and what each holds, wrote and shares there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("jobs", sa.Column("stored", sa.JSON(none_as_null=True), nullable=True))
    some = sa.text("stored IS NOT NULL")
    op.create_index("ix_jobs_stored", "jobs", ["finished_at", "job_id"], sqlite_where=some, postgresql_where=some)
    for name in ("holds_bytes", "shares_bytes"):
        op.add_column("checkpoints", sa.Column(name, sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Back."""
    for name in ("holds_bytes", "shares_bytes"):
        op.execute(f'ALTER TABLE checkpoints DROP COLUMN "{name}"')
    op.drop_index("ix_jobs_stored", table_name="jobs")
    op.drop_column("jobs", "stored")
