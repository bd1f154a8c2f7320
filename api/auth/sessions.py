"""Sessions of browsers, and the two ways of showing that one signed in with Cognito: a token, or a session's cookie.

The cookie holds 256 random bits and nothing else. The database has their hash, so whoever reads it can use no session;
it also has the refresh token, encrypted with a key derived from the cookie, so whoever reads it can use no refresh
token either. With it the groups are looked up again every 15 minutes: who is taken out of a group, or of the pool,
loses what it gave within that time.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import cast
from urllib.parse import urlencode, urlsplit

import structlog
from cryptography.fernet import Fernet, InvalidToken
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from api.auth import user_pool
from api.auth.cognito import Identity, Pool
from api.auth.hosted import hashed
from api.auth.principals import Principal
from perdure.domain.configuration import CognitoConfiguration
from perdure.domain.errors import CloudUnavailable, NotAllowed, NotSignedIn
from perdure.domain.sign_in import LONGEST_SESSION, RECHECK_GROUPS, SignInSession
from perdure.records.access import sessions
from perdure.records.schema.database import reading, writing
from perdure.records.settings.configuration import current_configuration

log = structlog.get_logger(__name__)

OWN_HEADER = "x-perdure-request"
"""A header of any value that only this server's own pages can send: other sites' would need leave, and get none."""
_FRESH_SECONDS = 1.0
"""How long what was read of the configuration is believed."""
_NOTE_USE_EVERY = timedelta(minutes=1)
_PAUSE_SECONDS = 30.0
"""After Cognito was out of reach, sessions whose tokens still hold do not wait for it this long."""
_ENDED = "Your session has ended; sign in again."


class SignIn:
    """Signing in with the pool that the configuration names. One per application."""

    def __init__(self) -> None:
        self._pool: Pool | None = None
        self._read_at = float("-inf")
        self._renewing = asyncio.Lock()
        self._failed_at = float("-inf")

    async def pool(self, app: FastAPI) -> Pool | None:
        """The pool to sign in with; None while sign-in is off."""
        if time.monotonic() - self._read_at > _FRESH_SECONDS:
            configuration = await run_in_threadpool(_configuration, app.state.engine)
            if self._pool is None or self._pool.configuration != configuration:
                self.close()
                self._pool = Pool(configuration) if configuration.enabled else None
            self._read_at = time.monotonic()
        return self._pool

    def close(self) -> None:
        """Let go of connections to Cognito."""
        if self._pool is not None:
            self._pool.close()

    def forget(self) -> None:
        """The configuration was changed: read it again at the next request."""
        self._read_at = float("-inf")

    async def by_bearer(self, request: Request) -> Principal | None:
        """An authenticator: an ID or access token of the pool as `Authorization: Bearer`."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        # Three parts are a token of some pool; anything else is for other authenticators.
        if scheme.lower() != "bearer" or token.count(".") != 2:
            return None
        pool = await self.pool(request.app)
        return None if pool is None else pool.principal(await pool.verify(token.strip()))

    async def by_cookie(self, request: Request) -> Principal | None:
        """An authenticator: a session's cookie. NotAllowed for a change that another site's page may have asked for."""
        value = request.cookies.get(cookie_name(request))
        pool = await self.pool(request.app) if value and "authorization" not in request.headers else None
        if pool is None or value is None:
            return None
        if request.method not in {"GET", "HEAD"} and not is_same_origin(request):
            raise NotAllowed(f"A change by cookie must come from this server's own pages (or send {OWN_HEADER}).")
        found, engine = await self.current(request, pool, value), _engine(request)
        if _now() - found.used_at >= _NOTE_USE_EVERY:
            await run_in_threadpool(_note_use, engine, found.id_hash)
        request.state.session = found
        return Principal(found.username, pool.role(tuple(found.groups)), "cognito")

    async def current(self, request: Request, pool: Pool, value: str, *, recheck: bool = False) -> SignInSession:
        """The session of a cookie's value, its groups looked up again if that is due, or wanted. NotSignedIn."""
        engine, id_hash = _engine(request), hashed(value)
        found = await run_in_threadpool(_find, engine, id_hash)
        if found is None or found.pool != pool.label or found.is_over(_now()):
            raise NotSignedIn(_ENDED)
        if not recheck and _now() < min(found.checked_at + RECHECK_GROUPS, found.trusted_until):
            return found
        async with self._renewing:
            found = await run_in_threadpool(_find, engine, id_hash)  # somebody else may have done it meanwhile
            if found is None:
                raise NotSignedIn(_ENDED)
            if not recheck and _now() < min(found.checked_at + RECHECK_GROUPS, found.trusted_until):
                return found
            return await self._renew(engine, pool, found, value)

    async def begin(self, request: Request, response: Response, pool: Pool, tokens: user_pool.Tokens) -> Principal:
        """Begin a session for whoever these tokens speak of and set its cookie; the one that this browser had before
        ends. NotSignedIn, NotAllowed."""
        identity = await pool.verify(tokens.id_token, use="id")
        principal = pool.principal(identity)
        value = secrets.token_urlsafe(32)
        before = request.cookies.get(cookie_name(request))
        begun = _session(pool, identity, tokens.refresh_token, value)
        await run_in_threadpool(_begin, _engine(request), begun, hashed(before) if before else None)
        set_cookie(request, response, cookie_name(request), value, LONGEST_SESSION)
        return principal

    async def end(self, request: Request, response: Response, *, everywhere: bool = False) -> None:
        """End the browser's session, with the pool too; `everywhere`: all of that person's. Never fails for AWS's sake:
        what was here is ended, and the log says what Cognito did not hear of."""
        value = request.cookies.get(cookie_name(request))
        drop_cookie(request, response, cookie_name(request))
        found = await run_in_threadpool(_find, _engine(request), hashed(value)) if value else None
        if value is None or found is None:
            return
        await run_in_threadpool(_end, _engine(request), found, everywhere)
        pool, token = await self.pool(request.app), _unsealed(found.refresh_token, value)
        if pool is None or token is None or found.pool != pool.label:
            return
        try:
            await run_in_threadpool(user_pool.end, pool, token, everywhere=everywhere)
        except (CloudUnavailable, NotSignedIn, NotAllowed) as problem:
            log.warning("Cognito was not told that somebody signed out", user=found.username, problem=str(problem))

    async def _renew(self, engine: Engine, pool: Pool, found: SignInSession, value: str) -> SignInSession:
        now, token = _now(), _unsealed(found.refresh_token, value)
        trusted = now < found.trusted_until
        if token is None:
            if trusted:
                return found
            await run_in_threadpool(_end, engine, found, False)
            raise NotSignedIn(_ENDED)
        if trusted and time.monotonic() - self._failed_at < _PAUSE_SECONDS:
            return found
        try:
            tokens = await run_in_threadpool(user_pool.refresh, pool, token)
            identity = await pool.verify(tokens.id_token, use="id")
            if identity.subject != found.subject:
                raise NotSignedIn(_ENDED)
        except NotSignedIn:
            await run_in_threadpool(_end, engine, found, False)
            raise NotSignedIn(_ENDED) from None
        except CloudUnavailable as problem:
            self._failed_at = time.monotonic()
            log.warning("groups could not be looked up again", user=found.username, problem=str(problem))
            if trusted:
                return found
            raise
        await run_in_threadpool(_renewed, engine, found.id_hash, identity, now)
        changes = {"groups": list(identity.groups), "checked_at": now, "trusted_until": identity.expires_at}
        return found.model_copy(update=changes)


def sign_in_of(request: Request) -> SignIn:
    """The application's."""
    return cast(SignIn, request.app.state.sign_in)


async def to_sign_in(request: Request) -> RedirectResponse | None:
    """A dependency of pages for people: where nobody is signed in but could be, the way to the sign-in page."""
    if request.state.principal is not None or await sign_in_of(request).pool(request.app) is None:
        return None
    return RedirectResponse(f"/sign-in?{urlencode({'next': request.url.path})}", 303)


def is_secure(request: Request) -> bool:
    """Did the request come by TLS?"""
    return request.url.scheme == "https"


def cookie_name(request: Request, purpose: str = "session") -> str:
    """By TLS the prefix makes browsers refuse it from anybody but this very host (RFC 6265bis)."""
    return f"__Host-perdure-{purpose}" if is_secure(request) else f"perdure-{purpose}"


def set_cookie(request: Request, response: Response, name: str, value: str, life: timedelta) -> None:
    """A cookie that scripts cannot read and other sites' pages cannot make a browser send along with a change."""
    response.set_cookie(
        name,
        value,
        max_age=int(life.total_seconds()),
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="lax",  # not strict: one comes back from the hosted page, which is another site
    )


def drop_cookie(request: Request, response: Response, name: str) -> None:
    """The browser forgets it."""
    response.delete_cookie(name, path="/", secure=is_secure(request), httponly=True, samesite="lax")


def is_same_origin(request: Request) -> bool:
    """Does a page of this very server ask? Its browser says so, or it sends a header that no other page could."""
    headers = request.headers
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        return False
    site = headers.get("sec-fetch-site")  # https://www.w3.org/TR/fetch-metadata/
    return site == "same-origin" if site is not None else OWN_HEADER in headers


def _session(pool: Pool, identity: Identity, refresh_token: str | None, value: str) -> SignInSession:
    now = _now()
    return SignInSession(
        id_hash=hashed(value),
        pool=pool.label,
        subject=identity.subject,
        username=identity.username,
        groups=list(identity.groups),
        refresh_token=_seal(value).encrypt(refresh_token.encode()).decode() if refresh_token else None,
        created_at=now,
        used_at=now,
        checked_at=now,
        trusted_until=identity.expires_at,
    )


def _seal(value: str) -> Fernet:
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(f"perdure refresh token {value}".encode()).digest()))


def _unsealed(sealed: str | None, value: str) -> str | None:
    try:
        return _seal(value).decrypt(sealed.encode()).decode() if sealed else None
    except InvalidToken:
        return None


def _engine(request: Request) -> Engine:
    return cast(Engine, request.app.state.engine)


def _now() -> datetime:
    return datetime.now(UTC)


def _configuration(engine: Engine) -> CognitoConfiguration:
    with reading(engine) as session:
        return current_configuration(session).cognito


def _find(engine: Engine, id_hash: str) -> SignInSession | None:
    with reading(engine) as session:
        return sessions.find_session(session, id_hash)


def _begin(engine: Engine, begun: SignInSession, before: str | None) -> None:
    with writing(engine) as session:
        if before is not None:
            sessions.end_session(session, before)
        sessions.begin_session(session, begun)


def _note_use(engine: Engine, id_hash: str) -> None:
    try:
        with writing(engine) as session:
            sessions.session_used(session, id_hash, _now())
    except OperationalError as problem:  # a full disk: reading goes on
        log.warning("the use of a session could not be noted", problem=str(problem)[:200])


def _renewed(engine: Engine, id_hash: str, identity: Identity, at: datetime) -> None:
    with writing(engine) as session:
        sessions.session_renewed(session, id_hash, groups=identity.groups, at=at, trusted_until=identity.expires_at)


def _end(engine: Engine, found: SignInSession, everywhere: bool) -> None:
    with writing(engine) as session:
        sessions.end_session(session, found.id_hash)
        if everywhere:
            sessions.end_sessions(session, found.subject)
