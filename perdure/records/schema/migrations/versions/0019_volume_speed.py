"""How fast a job's volume was asked to be: AWS charges for what its type has not by itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

COLUMNS = ("iops", "throughput_mib_per_second")


def upgrade() -> None:
    """Forward."""
    for name in COLUMNS:
        op.add_column("volumes", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Back."""
    for name in COLUMNS:
        op.execute(f'ALTER TABLE volumes DROP COLUMN "{name}"')
