"""What stands before every endpoint: size of the body, who may ask from a browser, headers of every answer."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import answer

LARGEST_BODY = 64 * 1024
"""Bytes. The largest sensible request is a few hundred."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}


class Guards:
    """ASGI middleware. Refuses bodies above LARGEST_BODY, other sites' pages, and names that are not this machine's.

    Without a sign-in, any web page that the user opens could otherwise speak to this server: by a form, which needs no
    permission from us, or by a name of its own that resolves to 127.0.0.1 (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, loopback_names_only: bool) -> None:
        self._app = app
        self._loopback_names_only = loopback_names_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
        else:
            await self._app(scope, _limited(receive), send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._loopback_names_only and host_name(headers.get("host", "")) not in LOOPBACK_NAMES:
            message = "This server answers to localhost and 127.0.0.1 only; use one of these in the address."
            return answer(HTTPStatus.MISDIRECTED_REQUEST, "wrong_host", message)
        # Sent by every current browser, by nothing else: https://www.w3.org/TR/fetch-metadata/
        if scope["method"] not in {"GET", "HEAD"} and headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
            return answer(HTTPStatus.FORBIDDEN, "cross_site", "Another site's page may not change anything here.")
        declared = headers.get("content-length", "0")
        if not declared.isascii() or not declared.isdigit() or int(declared[:20]) > LARGEST_BODY:
            return answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", _TOO_LARGE)
        return None


_TOO_LARGE = f"The request's body may have {LARGEST_BODY} bytes at most."


def _limited(receive: Receive) -> Receive:
    """Counts a body of undeclared size as it comes."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > LARGEST_BODY:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LARGE)
        return message

    return counted


def host_name(host: str) -> str:
    """The name in a Host header, without its port; empty when there is none to be read."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
