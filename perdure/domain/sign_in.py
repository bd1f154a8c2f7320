"""People who signed in with Cognito: a session of one browser, and a way to the hosted page that is under way."""

from __future__ import annotations

from datetime import datetime, timedelta

from perdure.domain.values import Frozen

LONGEST_SESSION = timedelta(hours=12)
"""From signing in to having to do it again, however busy somebody is."""
IDLE_SESSION = timedelta(hours=2)
"""A browser that asks for nothing this long is signed out."""
RECHECK_GROUPS = timedelta(minutes=15)
"""How long a session goes by the groups it knows before Cognito is asked for them again."""
LONGEST_WAY = timedelta(minutes=10)
"""From asking for the hosted page to coming back from it."""


class SignInSession(Frozen):
    """A browser that is signed in. Neither its cookie nor, readable, its refresh token is kept.

    `pool`: the user pool and app client; a session of another pool is worth nothing. `trusted_until`: the end of the
    ID token that the groups are from; until then they hold even while Cognito is out of reach.
    """

    id_hash: str
    pool: str
    subject: str
    username: str
    groups: list[str]
    refresh_token: str | None
    created_at: datetime
    used_at: datetime
    checked_at: datetime
    trusted_until: datetime

    def is_over(self, now: datetime) -> bool:
        """Has it lasted, or idled, too long?"""
        return now >= self.created_at + LONGEST_SESSION or now >= self.used_at + IDLE_SESSION


class HostedWay(Frozen):
    """One browser's way to the hosted page and back, good once. `browser_hash` binds it to that browser."""

    state_hash: str
    browser_hash: str
    verifier: str
    nonce: str
    next_path: str
    created_at: datetime
