"""Who may do what, and who did: the two roles, an API token as it is kept, a line of the audit log."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from perdure.domain.values import Frozen

LONGEST_LIFE = timedelta(days=366)
"""Of an API token. What lives for ever is forgotten for ever."""
USUAL_LIFE = timedelta(days=90)
TOKEN_NAME = r"^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,59}$"


class Role(StrEnum):
    """`viewer` reads everything but secrets; `admin` also changes things."""

    VIEWER = "viewer"
    ADMIN = "admin"


class ApiToken(Frozen):
    """An API token without its secret, which nobody keeps. `areas`: first words of the paths that it may ask for,
    such as `jobs`; empty: all.
    """

    number: int
    name: str
    role: Role
    areas: list[str]
    created_at: datetime
    created_by: str
    expires_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None

    @property
    def label(self) -> str:
        """Its name and number: names may repeat."""
        return f"{self.name} (token {self.number})"

    def refusal(self, now: datetime) -> str | None:
        """Why it opens nothing any more; None: it does."""
        if self.revoked_at is not None:
            return f"was revoked on {self.revoked_at:%Y-%m-%d at %H:%M} UTC"
        if self.expires_at <= now:
            return f"expired on {self.expires_at:%Y-%m-%d at %H:%M} UTC"
        return None


class AuditLine(Frozen):
    """One thing that somebody did, or was refused. `detail` never holds a value that could be secret."""

    number: int
    at: datetime
    who: str
    via: str
    action: str
    target: str
    outcome: int
    address: str
    detail: dict[str, Any]
