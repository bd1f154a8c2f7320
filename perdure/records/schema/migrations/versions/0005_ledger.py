"""The ledger, and its sums by minute, hour and day."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from perdure.records.schema.tables import Instant

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_FIGURES = [
    "jobs",
    "jobs_succeeded",
    "jobs_failed",
    "jobs_stopped",
    "jobs_unprotected",
    "protections",
    "checkpoint_attempts",
    "checkpoint_successes",
    "restore_attempts",
    "restore_successes",
    "rehearsals",
    "rehearsal_failures",
    "cpu_ms",
    "run_ms",
    "batch_run_ms",
    "instance_micros",
    "share_micros",
    "on_demand_micros",
    "redone_on_demand_micros",
    "naive_saved_ms",
    "naive_saved_cpu_ms",
    "naive_saved_micros",
    "saved_ms",
    "saved_cpu_ms",
    "saved_micros",
    "lost_ms",
    "lost_micros",
    "frozen_ms",
    "frozen_micros",
    "volume_micros",
    "snapshot_micros",
    "store_micros",
    "key_micros",
    "wait_micros",
    "volume_attaches",
    "volume_attach_ms",
    "unbilled_micros",
    "estimated_micros",
    "instance_estimated_micros",
    "on_demand_estimated_micros",
    "unpriced_ms",
]


def _figures() -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger(), nullable=False, server_default="0") for name in _FIGURES]


def upgrade() -> None:
    """Forward. Jobs from before get their ledger when they are recorded next, or by `refresh_ledger`."""
    op.create_table(
        "ledger",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("queue", sa.String(), nullable=False),
        sa.Column("estimated", sa.Boolean(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        *_figures(),
        sa.PrimaryKeyConstraint("job_id", "key"),
    )
    op.create_table(
        "rollups",
        sa.Column("level", sa.String(), nullable=False),
        sa.Column("bucket", Instant(), nullable=False, autoincrement=False),
        sa.Column("queue", sa.String(), nullable=False),
        sa.Column("retired", sa.Boolean(), nullable=False),
        *_figures(),
        sa.PrimaryKeyConstraint("level", "bucket", "queue", "retired"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Back."""
    op.drop_table("rollups")
    op.drop_table("ledger")
