"""What CPU a checkpoint needs and a node has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward. Rows from before say nothing about the CPU."""
    for table in ("checkpoints", "nodes"):
        op.add_column(table, sa.Column("cpu_features", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    """Back."""
    for table in ("nodes", "checkpoints"):
        with op.batch_alter_table(table) as batch:
            batch.drop_column("cpu_features")
