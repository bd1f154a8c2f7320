"""The way to a user pool's hosted page and back: authorization code with PKCE, bound to one browser, good once.

Source: RFC 6749 §4.1, RFC 7636 (S256), RFC 9700; OpenID Connect Core §3.1.2 for the nonce. What is kept of a way is in
the database (records.sessions): who comes back first takes it, whatever follows.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import httpx

from api.auth.cognito import FETCH_LIMIT_SECONDS, Pool
from api.auth.user_pool import Tokens
from perdure.domain.errors import CloudUnavailable, NotSignedIn
from perdure.domain.sign_in import LONGEST_WAY, HostedWay

_NEXT = re.compile(r"/(?![/\\])[A-Za-z0-9/_.~%?=&+-]{0,500}")
_LARGEST_ANSWER = 128 * 1024


def safe_next(path: str) -> str:
    """Where to go after signing in: a path of this server, or its front page for anything else."""
    return path if _NEXT.fullmatch(path) and not path.startswith("/api/v1/auth/") else "/"


def hashed(value: str) -> str:
    """What is kept of a random value that somebody else holds: its SHA-256 (256 random bits need no slow hash)."""
    return hashlib.sha256(value.encode()).hexdigest()


def new_way(next_path: str, browser: str, at: datetime) -> tuple[HostedWay, str]:
    """A way for the browser that holds the random value `browser`, and its state."""
    state = secrets.token_urlsafe(32)
    way = HostedWay(
        state_hash=hashed(state),
        browser_hash=hashed(browser),
        verifier=secrets.token_urlsafe(48),
        nonce=secrets.token_urlsafe(32),
        next_path=safe_next(next_path),
        created_at=at,
    )
    return way, state


def authorize_url(pool: Pool, way: HostedWay, state: str, redirect_uri: str) -> str:
    """Where the browser goes."""
    digest = hashlib.sha256(way.verifier.encode()).digest()
    query = {
        "response_type": "code",
        "client_id": pool.configuration.client_id,
        "redirect_uri": redirect_uri,
        "scope": "openid",
        "state": state,
        "nonce": way.nonce,
        "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
        "code_challenge_method": "S256",
    }
    return f"{_base(pool)}/oauth2/authorize?{urlencode(query)}"


def check_way(way: HostedWay | None, browser: str | None, now: datetime) -> HostedWay:
    """The way that was taken, if it is this browser's and not too old. NotSignedIn."""
    if way is None:
        raise NotSignedIn("This sign-in is not under way here, or was finished already; begin again.")
    if browser is None or not hmac.compare_digest(hashed(browser), way.browser_hash):
        raise NotSignedIn("This sign-in was begun in another browser; begin again in this one.")
    if now >= way.created_at + LONGEST_WAY:
        raise NotSignedIn("This sign-in took too long; begin again.")
    return way


async def redeem(pool: Pool, way: HostedWay, code: str, redirect_uri: str) -> Tokens:
    """Tokens for the code. NotSignedIn when the pool does not take it; CloudUnavailable."""
    form = {
        "grant_type": "authorization_code",
        "client_id": pool.configuration.client_id,
        "redirect_uri": redirect_uri,
        "code": code,
        "code_verifier": way.verifier,
    }
    try:
        async with httpx.AsyncClient(timeout=2 * FETCH_LIMIT_SECONDS) as client:
            answer = await client.post(f"{_base(pool)}/oauth2/token", data=form)
        given: Any = answer.json() if len(answer.content) <= _LARGEST_ANSWER else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as problem:
        raise CloudUnavailable("The user pool's token endpoint does not answer; try again in a moment.") from problem
    if answer.status_code in {400, 401}:
        raise NotSignedIn("The user pool does not take this code: used, too old, or not ours. Begin again.")
    try:
        refresh_token = given.get("refresh_token")
        return Tokens(str(given["id_token"]), str(given["access_token"]), refresh_token, int(given["expires_in"]))
    except (AttributeError, KeyError, TypeError, ValueError):
        message = f"The user pool's token endpoint answers {answer.status_code}, without tokens."
        raise CloudUnavailable(message) from None


def _base(pool: Pool) -> str:
    return pool.configuration.domain.rstrip("/")
