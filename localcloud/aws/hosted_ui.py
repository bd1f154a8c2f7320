"""A user pool's hosted pages, which moto lacks: /oauth2/authorize with a login form, /oauth2/token, /logout.

On AWS each pool's pages have a host of their own (`https://DOMAIN.auth.REGION.amazoncognito.com`); here they stand
below /_hosted/POOL. Source: Amazon Cognito developer guide, "User pool endpoints and managed login reference"; RFC 6749
and RFC 7636. Codes are good once, for five minutes, for the client, redirect address and challenge they were asked
with; PKCE with S256 is demanded, though Cognito itself leaves it to the client.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from urllib.parse import parse_qsl, urlencode, urlsplit

from localcloud.aws.ec2_wire import Environ, StartResponse, read_body, respond, respond_json
from localcloud.aws.moto_backend import AppClient, MotoPools

PREFIX = "/_hosted/"
CODE_SECONDS = 300.0
_PATH = re.compile(rf"{PREFIX}(?P<pool>[\w-]+)/(?P<page>oauth2/authorize|oauth2/token|logout)")
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_REMEMBERED = 1000
"""Codes that are kept; the oldest go first."""
Params = dict[str, str]


@dataclass(frozen=True)
class _Grant:
    """What a code stands for."""

    client: AppClient
    redirect_uri: str
    challenge: str
    nonce: str
    username: str
    until: float


class _Refusal(Exception):
    """A request that gets an error page, or an OAuth error as JSON: never a redirect."""

    def __init__(self, error: str, description: str) -> None:
        self.error = error
        super().__init__(description)


class HostedUi:
    """A WSGI application. Any thread may call; `clock` gives seconds."""

    def __init__(self, pools: MotoPools, clock: Callable[[], float] = time.monotonic) -> None:
        self._pools, self._clock = pools, clock
        self._lock = threading.Lock()
        self._grants: dict[str, _Grant] = {}

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        """Answer one request below PREFIX."""
        match, method = _PATH.fullmatch(environ.get("PATH_INFO", "")), environ["REQUEST_METHOD"]
        if match is None:
            return respond_json(start, {"error": "not_found"}, 404)
        page, pool_id = match["page"], match["pool"]
        query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
        form = dict(parse_qsl(read_body(environ).decode("utf-8", "replace"))) if method == "POST" else {}
        try:
            if page == "oauth2/token" and method == "POST":
                return respond_json(start, self._token(pool_id, form))
            if page == "oauth2/authorize" and method == "POST":
                return self._sign_in(pool_id, query, form, start)
            if page == "oauth2/authorize" and method == "GET":
                self._authorization(pool_id, query)
                return _html(start, _form(query))
            if page == "logout" and method == "GET":
                return self._logout(pool_id, query, start)
        except _Refusal as refusal:
            if page == "oauth2/token":
                return respond_json(start, {"error": refusal.error}, 400)
            return _html(start, f"<h1>{escape(refusal.error)}</h1><p>{escape(str(refusal))}</p>", 400)
        return respond_json(start, {"error": "method_not_allowed"}, 405)

    def _authorization(self, pool_id: str, query: Params) -> AppClient:
        client = self._client(pool_id, query)
        if query.get("redirect_uri") not in client.callback_urls:
            raise _Refusal("redirect_mismatch", "An error was encountered with the requested page.")
        if query.get("response_type") != "code" or not client.code_flow:
            raise _Refusal("unauthorized_client", "This client may not ask for a code.")
        if "openid" not in query.get("scope", "").split():
            raise _Refusal("invalid_scope", "Only the scope openid is known here.")
        if query.get("code_challenge_method") != "S256" or not _CHALLENGE.fullmatch(query.get("code_challenge", "")):
            raise _Refusal("invalid_request", "code_challenge with code_challenge_method=S256 is needed.")
        return client

    def _client(self, pool_id: str, given: Params) -> AppClient:
        client = self._pools.client(given.get("client_id", ""))
        if client is None or client.pool_id != pool_id:
            raise _Refusal("invalid_client", "There is no such client.")
        return client

    def _sign_in(self, pool_id: str, query: Params, form: Params, start: StartResponse) -> Iterable[bytes]:
        client, username = self._authorization(pool_id, query), form.get("username", "")
        status = self._pools.password_status(pool_id, username, form.get("password", ""))
        if status == "FORCE_CHANGE_PASSWORD":
            return _html(start, _form(query, "Set a new password on the application's own page first."), 400)
        if status != "CONFIRMED":
            return _html(start, _form(query, "Incorrect username or password."), 400)
        code = secrets.token_urlsafe(32)
        until = self._clock() + CODE_SECONDS
        challenge, nonce = query["code_challenge"], query.get("nonce", "")
        with self._lock:
            self._grants[code] = _Grant(client, query["redirect_uri"], challenge, nonce, username, until)
            while len(self._grants) > _REMEMBERED:
                del self._grants[next(iter(self._grants))]
        back = {"code": code} | ({"state": query["state"]} if "state" in query else {})
        return _redirect(start, f"{query['redirect_uri']}?{urlencode(back)}")

    def _token(self, pool_id: str, form: Params) -> dict[str, object]:
        client = self._client(pool_id, form)
        if client.has_secret:
            raise _Refusal("invalid_client", "This client has a secret, and none was sent.")
        if form.get("grant_type") == "refresh_token":
            token = form.get("refresh_token", "")
            if self._pools.refresh_token_client(pool_id, token) != client.client_id:
                raise _Refusal("invalid_grant", "The refresh token is not good.")
            return self._pools.refresh(pool_id, token)
        if form.get("grant_type") != "authorization_code":
            raise _Refusal("unsupported_grant_type", "authorization_code or refresh_token.")
        with self._lock:
            grant = self._grants.pop(form.get("code", ""), None)  # whatever follows, it was used
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if (
            grant is None
            or self._clock() > grant.until
            or grant.client.client_id != client.client_id
            or grant.redirect_uri != form.get("redirect_uri")
            or not hmac.compare_digest(grant.challenge, challenge)
        ):
            raise _Refusal("invalid_grant", "The code is not good.")
        return self._pools.issue(client, grant.username, grant.nonce)

    def _logout(self, pool_id: str, query: Params, start: StartResponse) -> Iterable[bytes]:
        client = self._client(pool_id, query)
        if query.get("logout_uri") not in client.logout_urls:
            raise _Refusal("redirect_mismatch", "An error was encountered with the requested page.")
        return _redirect(start, query["logout_uri"])


def _form(query: Params, problem: str = "") -> str:
    where = urlencode(query)
    return (
        "<h1>Sign in</h1><p>The hosted page of a user pool, as localcloud simulates it.</p>"
        f'<p role="alert">{escape(problem)}</p>'
        f'<form method="post" action="?{escape(where, quote=True)}">'
        '<label>User name <input name="username" autocomplete="username" required></label> '
        '<label>Password <input name="password" type="password" autocomplete="current-password" required></label> '
        f"<button>Sign in</button></form><p>It then returns to {escape(urlsplit(query['redirect_uri']).netloc)}.</p>"
    )


def _html(start: StartResponse, body: str, status: int = 200) -> Iterable[bytes]:
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Sign in</title><body>{body}</body></html>'
    return respond(start, page.encode(), status, "text/html; charset=utf-8", {"Cache-Control": "no-store"})


def _redirect(start: StartResponse, address: str) -> Iterable[bytes]:
    return respond(start, b"", 302, "text/plain", {"Location": address, "Cache-Control": "no-store"})
