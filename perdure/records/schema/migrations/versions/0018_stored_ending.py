"""Whose kept checkpoints are being deleted from a store."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("jobs", sa.Column("stored_ending_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Back."""
    op.drop_column("jobs", "stored_ending_at")
