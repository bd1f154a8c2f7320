"""The door: who asks is found out once per request, before anything else looks at it, and whether they may.

Everything is closed unless a route says otherwise (rules.py); an unknown path is refused like a known one, so that a
stranger learns nothing of what there is. Who asks stands in `request.state.principal` (None: an open route, nobody).
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable, Sequence

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import OperationalError
from starlette.types import ASGIApp, Receive, Scope, Send

from api.auth.principals import Principal, Role
from api.auth.rules import Access, Route, Routes, area, by_method
from api.serving import errors
from api.serving.guards import LOOPBACK_NAMES, host_name
from perdure.domain.errors import NotAllowed, NotSignedIn, PerdureError
from perdure.records.schema.database import reading
from perdure.records.settings.configuration import current_configuration
from perdure.settings import ApiSettings

Authenticator = Callable[[Request], Awaitable[Principal | None]]
"""Knows one kind of credential. None: the request carries none of that kind. NotSignedIn: it does, and it is bad."""

LOCAL = Principal("local", Role.ADMIN, "loopback")
"""Whoever asks over loopback while no sign-in is set up."""
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_FRESH_SECONDS = 1.0
"""How long an answer to "is sign-in on?" is believed."""


class Door:
    """ASGI middleware: authenticates, asks the rules, refuses with 401 or 403 in the common shape."""

    def __init__(self, app: ASGIApp, settings: ApiSettings, authenticators: Sequence[Authenticator]) -> None:
        self._app = app
        self._authenticators = authenticators
        self._loopback = is_loopback(settings.api_host) and not settings.require_sign_in
        self._sign_in_on = False
        self._asked_at = float("-inf")
        self._routes: Routes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._open(scope, receive, send)
        else:  # a web socket: there are none
            await send({"type": "websocket.close", "code": 1008})

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        route = self._route(scope)
        access = route.access(request.method) if route else by_method(request.method)
        principal: Principal | None = None
        try:
            principal = await self._who(request)
            request.state.principal = principal
            _check(principal, access, request)
        except (PerdureError, OperationalError) as problem:
            if access is not Access.ANYONE:
                await (await errors.answer_to(request, problem))(scope, receive, send)
                return
            request.state.principal = None
        await self._app(scope, receive, send)

    def _route(self, scope: Scope) -> Route | None:
        if self._routes is None:
            self._routes = Routes(scope["app"])
        return self._routes.match(scope)

    async def _who(self, request: Request) -> Principal | None:
        """None: nobody said who they are, and that is not enough here. NotSignedIn."""
        if len(request.headers.getlist("authorization")) > 1:
            raise NotSignedIn("There are several Authorization headers; send one.")
        for authenticate in self._authenticators:
            principal = await authenticate(request)
            if principal is not None:
                return principal
        if "authorization" in request.headers:
            raise NotSignedIn("No sign-in that is set up here knows what the Authorization header says.")
        return LOCAL if self._loopback and _is_direct(request) and not await self._sign_in_is_on(request.app) else None

    async def _sign_in_is_on(self, app: FastAPI) -> bool:
        if time.monotonic() - self._asked_at > _FRESH_SECONDS:
            self._sign_in_on = await run_in_threadpool(_cognito_is_on, app)
            self._asked_at = time.monotonic()
        return self._sign_in_on


def is_loopback(host: str) -> bool:
    """Does this address stay on the machine? Names other than localhost count as not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_of(settings: ApiSettings) -> frozenset[str] | None:
    """The names that a request may ask this server by; None: any. Bound to loopback it has no others than those of
    loopback, unless somebody says so; elsewhere only they know."""
    given = frozenset(settings.api_names.lower().replace(",", " ").split())
    return given | LOOPBACK_NAMES if given or is_loopback(settings.api_host) else None


def _check(principal: Principal | None, access: Access, request: Request) -> None:
    if access is Access.ANYONE:
        return
    if principal is None:
        raise NotSignedIn("Nobody is signed in: send `Authorization: Bearer …` with an API token, or sign in.")
    if access is Access.ADMIN and not principal.is_admin:
        raise NotAllowed(f"{principal.name} may look at everything, but only an admin may do this.")
    if principal.areas and area(request.scope["path"]) not in principal.areas:
        raise NotAllowed(f"{principal.name} may only ask for {', '.join(sorted(principal.areas))}.")


def _is_direct(request: Request) -> bool:
    """Did whoever asks connect by themselves? Behind a proxy on this machine everybody would look local."""
    return host_name(request.headers.get("host", "")) in LOOPBACK_NAMES and not any(
        name in request.headers for name in _FORWARDED
    )


def _cognito_is_on(app: FastAPI) -> bool:
    with reading(app.state.engine) as session:
        return current_configuration(session).cognito.enabled
