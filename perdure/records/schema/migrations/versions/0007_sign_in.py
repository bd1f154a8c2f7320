"""People who signed in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from perdure.records.schema.tables import Instant

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward."""
    op.create_table(
        "sign_in_sessions",
        *(sa.Column(name, sa.String(), nullable=False) for name in ("id_hash", "pool", "subject", "username")),
        sa.Column("groups", sa.JSON(), nullable=False),
        sa.Column("refresh_token", sa.String(), nullable=True),
        *(
            sa.Column(name, Instant(), nullable=False)
            for name in ("created_at", "used_at", "checked_at", "trusted_until")
        ),
        sa.PrimaryKeyConstraint("id_hash"),
    )
    op.create_index("ix_sign_in_sessions_subject", "sign_in_sessions", ["subject"])
    op.create_index("ix_sign_in_sessions_created_at", "sign_in_sessions", ["created_at"])
    op.create_table(
        "hosted_ways",
        *(
            sa.Column(name, sa.String(), nullable=False)
            for name in ("state_hash", "browser_hash", "verifier", "nonce", "next_path")
        ),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("state_hash"),
    )
    op.create_index("ix_hosted_ways_created_at", "hosted_ways", ["created_at"])


def downgrade() -> None:
    """Back. Everybody has to sign in again."""
    op.drop_table("hosted_ways")
    op.drop_table("sign_in_sessions")
