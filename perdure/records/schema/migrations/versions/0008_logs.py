"""Log bundles of nodes and jobs that are gone; resumptions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "log_bundles",
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("instance_id", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
    )
    op.create_index("ix_log_bundles_job", "log_bundles", ["job_id", "at"])
    op.create_index("ix_log_bundles_node", "log_bundles", ["instance_id", "at"])
    op.create_index("ix_log_bundles_at", "log_bundles", ["at"])
    op.create_table(
        "resumptions",
        sa.Column("job_id", sa.String(), primary_key=True),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("job_name", sa.String(), nullable=False),
        sa.Column("new_job_id", sa.String(), nullable=True),
        sa.Column("checkpoint", sa.Integer(), nullable=False),
        sa.Column("volume_id", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("asked_by", sa.String(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=True),
    )
    op.create_index("ix_resumptions_new_job_id", "resumptions", ["new_job_id"])


def downgrade() -> None:
    """Back."""
    op.drop_table("resumptions")
    op.drop_table("log_bundles")
