"""Signing in with Cognito: by password with its challenges, by the hosted page, refreshing, signing out, who am I."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, cast
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse

from api.auth import hosted, token_cookie, user_pool
from api.auth.audit_trail import address_of
from api.auth.cognito import Pool
from api.auth.principals import Principal
from api.auth.rate_limit import FailedTries
from api.auth.rules import anyone_may, viewers_may
from api.auth.sessions import cookie_name, is_same_origin, set_cookie, sign_in_of
from api.auth.sign_in_responses import (
    ChallengeAnswer,
    ChallengeView,
    Me,
    PasswordSignIn,
    Refresh,
    SignedIn,
    SignInMethods,
    SignOut,
    TokenSignIn,
    TokensView,
)
from api.auth.tries import Tries
from api.auth.user_pool import Challenge, Tokens
from api.dependencies import Asking, PerhapsAsking
from api.serving.errors import described
from perdure.domain.errors import CloudUnavailable, NotAllowed, NotSignedIn, PerdureError
from perdure.domain.sign_in import IDLE_SESSION, LONGEST_SESSION, LONGEST_WAY, HostedWay, SignInSession
from perdure.records.access import audit, sessions
from perdure.records.schema.database import writing

router = APIRouter(prefix="/auth", tags=["sign-in"])

CALLBACK = "/api/v1/auth/callback"
PROBLEM = "perdure-sign-in-problem"
"""A cookie that the sign-in page reads and drops: why the way back from the hosted page did not end well."""
_FAILURES = described(HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS)


@router.get("", summary="How to sign in here")
@anyone_may
async def methods(request: Request, asking: PerhapsAsking) -> SignInMethods:
    """Answers anybody."""
    pool = await sign_in_of(request).pool(request.app)
    me = _me(request, asking) if asking else None
    if pool is None:
        return SignInMethods(
            enabled=False, hosted=False, region=None, user_pool_id=None, client_id=None, domain=None, me=me
        )
    names = pool.configuration
    return SignInMethods(
        enabled=True,
        hosted=bool(names.domain),
        region=names.region,
        user_pool_id=names.user_pool_id,
        client_id=names.client_id,
        domain=names.domain or None,
        me=me,
    )


@router.post("/sign-in", summary="Sign in by password", responses=_FAILURES)
@anyone_may
async def by_password(request: Request, response: Response, given: PasswordSignIn) -> SignedIn:
    """An unknown user and a wrong password get the same answer. After some failures in a row one has to wait."""
    pool = await _pool(request)
    with Tries(request, given.username):
        result = await run_in_threadpool(user_pool.sign_in, pool, given.username, given.password)
    return await _signed_in(request, response, pool, result, given.keep)


@router.post("/challenge", summary="Answer what the user pool asked", responses=_FAILURES)
@anyone_may
async def answer_challenge(request: Request, response: Response, given: ChallengeAnswer) -> SignedIn:
    """The first sign-in with a temporary password asks for a new one; pools with a second factor ask for a code."""
    pool = await _pool(request)
    challenge = Challenge(given.challenge, given.challenge_session, given.username)
    with Tries(request, given.username):
        result = await run_in_threadpool(user_pool.answer_challenge, pool, challenge, given.answer)
    return await _signed_in(request, response, pool, result, given.keep)


@router.post("/token", summary="Sign a browser in by API token")
@anyone_may
async def by_token(request: Request, response: Response, given: TokenSignIn) -> SignedIn:
    """For servers without Cognito, and for the first sign-in. Programs need no such thing: they send the token with
    each request."""
    principal = await token_cookie.begin(request, response, given.token.strip())
    request.state.principal = principal
    return SignedIn(me=_me(request, principal))


@router.post("/refresh", summary="Get new tokens, or have groups looked up again", responses=_FAILURES)
@anyone_may
async def refresh(request: Request, given: Refresh | None = None) -> SignedIn:
    """With a refresh token: new ID and access tokens. Without: a browser's session asks Cognito for its groups now."""
    pool = await _pool(request)
    if given and given.refresh_token:
        with Tries(request, f"refresh from {address_of(request.scope)}"):
            tokens = await run_in_threadpool(user_pool.refresh, pool, given.refresh_token)
        principal = pool.principal(await pool.verify(tokens.id_token, use="id"))
        return SignedIn(me=_me(request, principal), tokens=TokensView.model_validate(tokens))
    value = request.cookies.get(cookie_name(request))
    if value is None or _session(request) is None:
        raise NotSignedIn("There is no session to refresh; send a refresh token, or sign in.")
    found = await sign_in_of(request).current(request, pool, value, recheck=True)
    request.state.session = found
    return SignedIn(me=_me(request, Principal(found.username, pool.role(tuple(found.groups)), "cognito")))


@router.post("/sign-out", status_code=HTTPStatus.NO_CONTENT, summary="Sign out")
@anyone_may
async def sign_out(request: Request, given: SignOut | None = None) -> Response:
    """Ends this browser's session and drops its cookie; a program sends its refresh token. Twice is no error."""
    response = Response(status_code=HTTPStatus.NO_CONTENT)
    wish, sign_in = given or SignOut(), sign_in_of(request)
    if {cookie_name(request), cookie_name(request, token_cookie.PURPOSE)} & set(request.cookies):
        if not is_same_origin(request):
            raise NotAllowed("A browser is signed out by this server's own pages only.")
        await sign_in.end(request, response, everywhere=wish.everywhere)
        token_cookie.end(request, response)
    if wish.refresh_token and (pool := await sign_in.pool(request.app)) is not None:
        if wish.everywhere:
            tokens = await run_in_threadpool(user_pool.refresh, pool, wish.refresh_token)
            identity = await pool.verify(tokens.id_token, use="id")
            await run_in_threadpool(_end_sessions, request, identity.subject)
        await run_in_threadpool(user_pool.end, pool, wish.refresh_token, everywhere=wish.everywhere)
    return response


@router.get("/me", summary="Who am I")
@viewers_may
def me(request: Request, asking: Asking) -> Me:
    """Name and role of whoever asks."""
    return _me(request, asking)


# The hosted page


@router.get(
    "/hosted",
    summary="Sign in at the user pool's hosted page",
    status_code=HTTPStatus.SEE_OTHER,
    response_class=RedirectResponse,
    responses=described(HTTPStatus.CONFLICT),
)
@anyone_may
async def to_hosted(
    request: Request,
    next: Annotated[str, Query(max_length=600, description="Path to go to afterwards.", examples=["/docs"])] = "/",
) -> RedirectResponse:
    """Sends the browser there, with a state, a nonce and a PKCE challenge that only this browser can come back with."""
    pool = await _hosted_pool(request)
    name = cookie_name(request, "way")
    browser = request.cookies.get(name) or secrets.token_urlsafe(32)  # two tabs may be on their way
    way, state = hosted.new_way(next, browser, datetime.now(UTC))
    await run_in_threadpool(_begin_way, request, way)
    response = RedirectResponse(hosted.authorize_url(pool, way, state, _callback(request)), HTTPStatus.SEE_OTHER)
    set_cookie(request, response, name, browser, LONGEST_WAY)
    return response


@router.get(
    "/callback",
    summary="Where the hosted page sends browsers back to",
    status_code=HTTPStatus.SEE_OTHER,
    response_class=RedirectResponse,
)
@anyone_may
async def callback(
    request: Request,
    state: Annotated[str, Query(min_length=1, max_length=200)],
    code: Annotated[str | None, Query(min_length=1, max_length=2000)] = None,
    error: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """Begins a session and goes on to where the browser wanted to be. A state and a code are good once."""
    try:
        return await _come_back(request, state, code, error)
    except PerdureError as problem:
        if not isinstance(problem, NotSignedIn | NotAllowed | CloudUnavailable) or not _is_navigation(request):
            raise
        # In a cookie and not in the address: nobody else can make this server's page say something to somebody.
        response = RedirectResponse("/sign-in", HTTPStatus.SEE_OTHER)
        response.set_cookie(PROBLEM, quote(str(problem)), max_age=60, path="/sign-in", samesite="lax")
        return response


async def _come_back(request: Request, state: str, code: str | None, error: str | None) -> Response:
    pool = await _hosted_pool(request)
    # Taken before anything else is looked at: whatever is wrong, nobody gets a second try with this state.
    way = await run_in_threadpool(_take_way, request, hosted.hashed(state))
    way = hosted.check_way(way, request.cookies.get(cookie_name(request, "way")), datetime.now(UTC))
    if code is None or error is not None:
        raise NotSignedIn("The user pool did not let you in; try again, or ask its administrator.")
    tokens = await hosted.redeem(pool, way, code, _callback(request))
    await pool.verify(tokens.id_token, use="id", nonce=way.nonce)
    response = RedirectResponse(way.next_path, HTTPStatus.SEE_OTHER)
    principal = await sign_in_of(request).begin(request, response, pool, tokens)
    await run_in_threadpool(_note_sign_in, request, principal)
    return response


# What the endpoints above share


async def _pool(request: Request) -> Pool:
    pool = await sign_in_of(request).pool(request.app)
    if pool is None:
        raise NotSignedIn("Sign-in with Cognito is not set up on this server; an API token may still be.")
    return pool


async def _hosted_pool(request: Request) -> Pool:
    pool = await _pool(request)
    if not pool.configuration.domain:
        raise NotSignedIn("No hosted page is set up; sign in by user name and password.")
    return pool


async def _signed_in(
    request: Request, response: Response, pool: Pool, result: Tokens | Challenge, keep: str
) -> SignedIn:
    if isinstance(result, Challenge):
        shown = ChallengeView(challenge=result.name, challenge_session=result.session, username=result.username)
        return SignedIn(challenge=shown)
    if keep == "cookie":
        principal = await sign_in_of(request).begin(request, response, pool, result)
        token_cookie.end(request, response)
    else:
        principal = pool.principal(await pool.verify(result.id_token, use="id"))
    cast(FailedTries, request.app.state.failed_tries).succeeded(address_of(request.scope), principal.name)
    request.state.principal = principal
    return SignedIn(me=_me(request, principal), tokens=TokensView.model_validate(result) if keep == "tokens" else None)


def _me(request: Request, principal: Principal) -> Me:
    found = _session(request)
    shown = Me(name=principal.name, role=principal.role, via=principal.via)
    if found is None:
        return shown
    more = {
        "groups": found.groups,
        "session_ends_at": found.created_at + LONGEST_SESSION,
        "idle_limit_seconds": int(IDLE_SESSION.total_seconds()),
    }
    return shown.model_copy(update=more)


def _session(request: Request) -> SignInSession | None:
    return getattr(request.state, "session", None)


def _callback(request: Request) -> str:
    """This server's own, as the browser sees it. The user pool takes registered ones only, whatever Host says."""
    return f"{str(request.base_url).rstrip('/')}{CALLBACK}"


def _is_navigation(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _begin_way(request: Request, way: HostedWay) -> None:
    with writing(request.app.state.engine) as session:
        sessions.begin_way(session, way)


def _take_way(request: Request, state_hash: str) -> HostedWay | None:
    with writing(request.app.state.engine) as session:
        return sessions.take_way(session, state_hash)


def _end_sessions(request: Request, subject: str) -> None:
    with writing(request.app.state.engine) as session:
        sessions.end_sessions(session, subject)


def _note_sign_in(request: Request, principal: Principal) -> None:
    """Reads leave no line by themselves; this one is worth one."""
    with writing(request.app.state.engine) as session:
        audit.note(
            session,
            at=datetime.now(UTC),
            who=principal.name,
            via=principal.via,
            action=f"GET {CALLBACK}",
            target=CALLBACK,
            outcome=int(HTTPStatus.SEE_OTHER),
            address=address_of(request.scope),
            detail={"role": principal.role.value},
        )
