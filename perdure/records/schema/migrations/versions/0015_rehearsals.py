"""What was rehearsed of a job, and how often."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.add_column("jobs", sa.Column("rehearsal", sa.JSON(none_as_null=True), nullable=True))
    for name in ("rehearsals", "rehearsal_failures"):
        op.add_column("jobs", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Back."""
    for name in ("rehearsal_failures", "rehearsals", "rehearsal"):
        op.drop_column("jobs", name)
