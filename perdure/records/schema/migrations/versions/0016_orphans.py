"""Orphans in AWS, the installation's own name (a tag there), and which kept volume is being deleted."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward. The name is drawn here, once."""
    installation = op.create_table("installation", sa.Column("name", sa.String(), nullable=False, primary_key=True))
    op.bulk_insert(installation, [{"name": secrets.token_hex(8)}])
    op.create_table(
        "orphans",
        sa.Column("resource_id", sa.String(), nullable=False, primary_key=True),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("kind", "job_id", "place", "volume_type")),
        sa.Column("size_gib", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("reason", "refusal")),
        sa.Column("found_at", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
    )
    op.create_index("ix_orphans_found_at", "orphans", ["found_at"])
    op.add_column("volumes", sa.Column("ending_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Back."""
    op.drop_column("volumes", "ending_at")
    op.drop_table("orphans")
    op.drop_table("installation")
