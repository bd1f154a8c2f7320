"""What a job and a node cost is worked out of: volumes, snapshots, retries, and what an instance is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from perdure.records.schema.tables import Instant

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_RETRY = '{"attempts": 1, "rules": []}'


def upgrade() -> None:
    """Forward. Of jobs and nodes from before, what was never noted is not known."""
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("changed_at", Instant(), nullable=True))
        jobs.add_column(sa.Column("timeout_seconds", sa.Integer(), nullable=True))
        jobs.add_column(sa.Column("retry", sa.JSON(), nullable=False, server_default=_RETRY))
        jobs.add_column(sa.Column("checkpoint_failed_at", Instant(), nullable=True))
        jobs.add_column(sa.Column("environment", sa.JSON(), nullable=False, server_default="{}"))
        for name in ("checkpoint_failure", "checkpoint_error", "unprotected"):
            jobs.add_column(sa.Column(name, sa.String(), nullable=False, server_default=""))
        jobs.add_column(sa.Column("frozen_seconds", sa.Float(), nullable=False, server_default="0"))
        jobs.add_column(sa.Column("checkpoint_failures_in_a_row", sa.Integer(), nullable=False, server_default="0"))
        jobs.add_column(sa.Column("quarantined", sa.JSON(), nullable=False, server_default="[]"))
    with op.batch_alter_table("attempts") as attempts:
        attempts.add_column(sa.Column("restore_failures", sa.Integer(), nullable=False, server_default="0"))
        for name in ("batch_started_at", "batch_stopped_at", "noticed_at", "notice_deadline"):
            attempts.add_column(sa.Column(name, Instant(), nullable=True))
    with op.batch_alter_table("nodes") as nodes:
        for name in ("region", "pay_type", "ended_by", "host_name", "arch", "cpu_model", "cpu_vendor"):
            nodes.add_column(sa.Column(name, sa.String(), nullable=False, server_default=""))
        for name in ("launched_at", "ended_at"):
            nodes.add_column(sa.Column(name, Instant(), nullable=True))
        for name in ("vcpus", "memory_mib"):
            nodes.add_column(sa.Column(name, sa.Integer(), nullable=True))
        nodes.add_column(sa.Column("ips", sa.JSON(), nullable=False, server_default="[]"))
    for table, own in (("volumes", ("zone", "volume_type")), ("snapshots", ("volume_id",))):
        op.create_table(
            table,
            sa.Column("job_id", sa.String(), nullable=False),
            sa.Column("volume_id" if table == "volumes" else "snapshot_id", sa.String(), nullable=False),
            *(sa.Column(name, sa.String(), nullable=False) for name in own),
            sa.Column("size_gib", sa.Integer(), nullable=False),
            sa.Column("created_at", Instant(), nullable=False),
            sa.Column("deleted_at", Instant(), nullable=True),
            sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], ondelete="CASCADE"),
            sa.PrimaryKeyConstraint("job_id", "volume_id" if table == "volumes" else "snapshot_id"),
        )


def downgrade() -> None:
    """Back."""
    for table in ("snapshots", "volumes"):
        op.drop_table(table)
    gone = {
        "nodes": "region pay_type ended_by host_name arch cpu_model cpu_vendor launched_at ended_at vcpus memory_mib"
        " ips",
        "attempts": "restore_failures batch_started_at batch_stopped_at noticed_at notice_deadline",
        "jobs": "changed_at timeout_seconds retry checkpoint_failed_at checkpoint_failure checkpoint_error unprotected"
        " checkpoint_failures_in_a_row quarantined environment frozen_seconds",
    }
    for table, columns in gone.items():
        with op.batch_alter_table(table) as batch:
            for column in columns.split():
                batch.drop_column(column)
