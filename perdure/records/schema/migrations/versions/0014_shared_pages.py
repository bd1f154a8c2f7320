"""What a checkpoint wrote of its memory image, and the full checkpoint with which it may share pages."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("checkpoints", sa.Column("written_bytes", sa.BigInteger(), nullable=True))
    op.add_column("checkpoints", sa.Column("full", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Back."""
    for column in ("written_bytes", "full"):
        op.execute(f'ALTER TABLE checkpoints DROP COLUMN "{column}"')
