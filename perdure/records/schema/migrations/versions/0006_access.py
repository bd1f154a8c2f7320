"""Who may do what: API tokens, and the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from perdure.records.schema.tables import Instant

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "api_tokens",
        sa.Column("number", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("sha256", "name", "role", "created_by")),
        sa.Column("areas", sa.JSON(), nullable=False),
        *(sa.Column(name, Instant(), nullable=False) for name in ("created_at", "expires_at")),
        *(sa.Column(name, Instant(), nullable=True) for name in ("last_used_at", "revoked_at")),
        sa.Column("revoked_by", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("ix_api_tokens_sha256", "api_tokens", ["sha256"], unique=True)
    op.create_table(
        "audit",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("who", "via", "action", "target", "address")),
        sa.Column("outcome", sa.Integer(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("ix_audit_at", "audit", ["at", "number"])
    op.create_index("ix_audit_who", "audit", ["who", "at", "number"])
    op.create_index("ix_audit_action", "audit", ["action", "at", "number"])


def downgrade() -> None:
    """Back. Tokens and the log are lost."""
    op.drop_table("audit")
    op.drop_table("api_tokens")
