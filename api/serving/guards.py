"""What stands before every endpoint: sizes and times, who may ask from a browser, headers of every answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.serving.errors import answer, tell_audit, unexpected

LARGEST_BODY = 64 * 1024
"""Bytes. The largest sensible request is a few hundred."""
BODY_SECONDS = 20.0
"""How long a client may take to send a body: 64 KiB over a very bad line."""
MOST_HEADERS = 100
MOST_AT_ONCE = 500
"""Requests that are answered at the same time, live streams among them."""
HSTS = "max-age=31536000"
"""A year, for this name alone: what else its domain serves is not ours to say."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_READS = {"GET", "HEAD"}
_CLOSE = {"Connection": "close"}
"""What is left of a body that nobody wants is not waited for."""


class Guards:
    """ASGI middleware. Refuses bodies that are too large or too slow, too many headers, other sites' pages, and names
    that are not this server's (`names`; None: it has any).

    Without a sign-in, any web page that the user opens could otherwise speak to this server: by a form, which needs no
    permission from us, or by a name of its own that resolves to 127.0.0.1 (DNS rebinding). With one, the browser would
    add the session's cookie to such a form.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] | None) -> None:
        self._app = app
        self._names = None if names is None else frozenset(names)
        self._at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope.get("scheme") == "https":
                    headers.setdefault("Strict-Transport-Security", HSTS)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        self._at_once += 1
        try:
            await self._app(scope, _limited(receive), send_with_headers)
        except Exception as problem:
            if started:
                raise
            await (await unexpected(Request(scope), problem))(scope, receive, send_with_headers)
        finally:
            self._at_once -= 1

    def _refusal(self, scope: Scope) -> Response | None:
        found = self._unusable(scope, Headers(scope=scope))
        if found is None:
            return None
        status, code, message = found
        tell_audit(scope, code)
        response = answer(status, code, message)
        if status in {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.SERVICE_UNAVAILABLE}:
            response.headers["Connection"] = "close"
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            response.headers["Retry-After"] = "1"
        return response

    def _unusable(self, scope: Scope, headers: Headers) -> tuple[HTTPStatus, str, str] | None:
        if self._at_once >= MOST_AT_ONCE:
            return HTTPStatus.SERVICE_UNAVAILABLE, "busy", "Too many requests at the same time; try again in a moment."
        if len(scope["headers"]) > MOST_HEADERS:
            message = f"A request may have {MOST_HEADERS} headers at most."
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_headers", message
        if self._names is not None and host_name(headers.get("host", "")) not in self._names:
            return HTTPStatus.MISDIRECTED_REQUEST, "wrong_host", self._other_name()
        if scope["method"] not in _READS and _from_elsewhere(headers):
            return HTTPStatus.FORBIDDEN, "cross_site", "Another site's page may not change anything here."
        declared = headers.get("content-length", "0")
        if not declared.isascii() or not declared.isdigit() or int(declared[:20]) > LARGEST_BODY:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", _TOO_LARGE
        return None

    def _other_name(self) -> str:
        if self._names == LOOPBACK_NAMES:
            return "This server answers to localhost and 127.0.0.1 only; use one of these in the address."
        return "This server does not answer to the name in the address; PERDURE_API_NAMES lists those it has."


_TOO_LARGE = f"The request's body may have {LARGEST_BODY} bytes at most."
_TOO_SLOW = f"The request's body did not come within {BODY_SECONDS:g} s."


def host_name(host: str) -> str:
    """The name in a Host header, without its port; empty when there is none to be read."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _from_elsewhere(headers: Headers) -> bool:
    """Did another site's page make a browser send this? https://www.w3.org/TR/fetch-metadata/; older browsers name the
    page's origin instead, and other programs neither."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in {"cross-site", "same-site"}
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()


def _limited(receive: Receive) -> Receive:
    """Counts a body as it comes, for its declared size is only a word, and gives it BODY_SECONDS."""
    seen, complete = 0, False
    deadline: float | None = None

    async def counted() -> Message:
        nonlocal seen, complete, deadline
        if complete:  # this one waits until the client goes away
            return await receive()
        deadline = deadline or asyncio.get_running_loop().time() + BODY_SECONDS
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, _TOO_SLOW, _CLOSE) from None
        seen += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if seen > LARGEST_BODY:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE, _CLOSE)
        return message

    return counted
