"""A browser that signed in with an API token: for servers without Cognito, and for the first sign-in of all.

The cookie is the token, out of scripts' reach. It opens what the token opens, for as long as that holds.
"""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool

from api.auth.api_tokens import principal_of
from api.auth.principals import Principal
from api.auth.sessions import OWN_HEADER, cookie_name, drop_cookie, is_same_origin, set_cookie
from perdure.domain.errors import NotAllowed, NotSignedIn
from perdure.domain.sign_in import LONGEST_SESSION
from perdure.records.access.tokens import PREFIX

PURPOSE = "token"


async def by_token_cookie(request: Request) -> Principal | None:
    """An authenticator. None for a token that is not good any more: its owner is a stranger. NotAllowed for a change
    that another site's page may have asked for."""
    secret = request.cookies.get(cookie_name(request, PURPOSE))
    if not secret or not secret.startswith(PREFIX) or "authorization" in request.headers:
        return None
    try:
        principal = await run_in_threadpool(principal_of, request.app.state.engine, secret, datetime.now(UTC))
    except NotSignedIn:
        return None
    if request.method not in {"GET", "HEAD"} and not is_same_origin(request):
        raise NotAllowed(f"A change by cookie must come from this server's own pages (or send {OWN_HEADER}).")
    return principal


async def begin(request: Request, response: Response, secret: str) -> Principal:
    """Sign this browser in; a session with Cognito that it had is forgotten. NotSignedIn; NotAllowed for a token of
    some areas, which opens too little for the console."""
    if not secret.startswith(PREFIX):
        raise NotSignedIn("This is no API token of this server: those begin with prd_.")
    principal = await run_in_threadpool(principal_of, request.app.state.engine, secret, datetime.now(UTC))
    if principal.areas:
        areas = ", ".join(sorted(principal.areas))
        raise NotAllowed(f"{principal.name} opens {areas} alone; the console needs a token without areas.")
    drop_cookie(request, response, cookie_name(request))
    set_cookie(request, response, cookie_name(request, PURPOSE), secret, LONGEST_SESSION)
    return principal


def end(request: Request, response: Response) -> None:
    """The browser forgets it. The token itself stays good: it is not the browser's to revoke."""
    drop_cookie(request, response, cookie_name(request, PURPOSE))
