"""What was asked of a store for a job, and what it held of it: what checkpoints in S3 cost.

Of jobs that were over before, nobody knows; they cost nothing here.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "store_uses",
        sa.Column("job_id", sa.String(), sa.ForeignKey("jobs.job_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("use_id", sa.String(), primary_key=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("store", sa.String(), nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("writes", sa.BigInteger(), nullable=False),
        sa.Column("reads", sa.BigInteger(), nullable=False),
        sa.Column("key_requests", sa.BigInteger(), nullable=False),
        sa.Column("held_bytes", sa.BigInteger(), nullable=True),
    )
    op.create_index("ix_store_uses_at", "store_uses", ["job_id", "at"])


def downgrade() -> None:
    """Back."""
    op.drop_table("store_uses")
