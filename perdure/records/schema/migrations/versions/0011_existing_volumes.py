"""An index of the volumes that exist: most of the table are those that are gone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    existing = sa.text("deleted_at IS NULL")
    op.create_index(
        "ix_volumes_existing",
        "volumes",
        ["created_at", "job_id", "volume_id"],
        sqlite_where=existing,
        postgresql_where=existing,
    )


def downgrade() -> None:
    """Back."""
    op.drop_index("ix_volumes_existing", table_name="volumes")
