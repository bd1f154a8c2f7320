"""Prices of instances, volumes and storage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from perdure.records.schema.tables import Instant

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "spot_prices",
        sa.Column("instance_type", sa.String(), nullable=False),
        sa.Column("zone", sa.String(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("micros_per_hour", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("instance_type", "zone", "at"),
    )
    op.create_table(
        "spot_price_looks",
        sa.Column("instance_type", sa.String(), nullable=False),
        sa.Column("zone", sa.String(), nullable=False),
        sa.Column("known_until", Instant(), nullable=True),
        sa.Column("looked_at", Instant(), nullable=False),
        sa.Column("problem", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("instance_type", "zone"),
    )
    op.create_table(
        "on_demand_prices",
        sa.Column("instance_type", sa.String(), nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("micros_per_hour", sa.BigInteger(), nullable=True),
        sa.Column("looked_at", Instant(), nullable=False),
        sa.Column("problem", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("instance_type", "region"),
    )
    op.create_table(
        "storage_prices",
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("micros_per_gib_month", sa.BigInteger(), nullable=False),
        sa.Column("looked_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "region"),
    )


def downgrade() -> None:
    """Back. Prices can be asked for again, for as long as AWS keeps them (90 days)."""
    for table in ("storage_prices", "on_demand_prices", "spot_price_looks", "spot_prices"):
        op.drop_table(table)
