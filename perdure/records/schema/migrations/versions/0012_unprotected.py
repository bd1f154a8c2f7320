"""An index of the jobs that run unprotected: reports count them by their reasons."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    some = sa.text("unprotected <> ''")
    op.create_index("ix_jobs_unprotected", "jobs", ["created_at", "job_id"], sqlite_where=some, postgresql_where=some)


def downgrade() -> None:
    """Back."""
    op.drop_index("ix_jobs_unprotected", table_name="jobs")
