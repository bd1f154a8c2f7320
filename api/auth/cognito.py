"""Tokens of an Amazon Cognito user pool: are they good, whose are they, and what may these people do.

Source: Amazon Cognito developer guide, "Verifying JSON Web Tokens"; RFC 8725 for what else to refuse. A pool signs by
RS256 with keys that it publishes; a token is good until it expires, whatever happens to its user meanwhile.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import httpx
import jwt
from fastapi.concurrency import run_in_threadpool

from api.auth.principals import Principal, Role
from perdure.domain.configuration import CognitoConfiguration
from perdure.domain.errors import CloudUnavailable, NotAllowed, NotSignedIn

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_cognito_idp import CognitoIdentityProviderClient

ALGORITHM = "RS256"
LEEWAY_SECONDS = 30
"""How far our clock and AWS's may differ."""
LONGEST_TOKEN = 16 * 1024
"""Characters; a user of many groups has long ones."""
KEYS_SECONDS = 3600.0
"""How long fetched keys are believed. Cognito hardly ever changes them."""
REFETCH_SECONDS = 60.0
"""Between two fetches because of keys nobody knows: whoever invents key ids must not make us ask AWS each time."""
RETRY_SECONDS = 5.0
"""The same while there are none at all."""
FETCH_LIMIT_SECONDS = 5.0
_LARGEST_KEY_SET = 64 * 1024
_BAD = "The token is not one that this server takes: "


@dataclass(frozen=True)
class Identity:
    """What a good token says. `nonce` is an ID token's own; `use` is `id` or `access`."""

    subject: str
    username: str
    groups: tuple[str, ...]
    expires_at: datetime
    use: str
    nonce: str


class Pool:
    """One user pool as the configuration names it: its issuer and its keys."""

    def __init__(
        self,
        configuration: CognitoConfiguration,
        fetch: Callable[[str], Awaitable[dict[str, Any]]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.configuration = configuration
        self.issuer = f"https://cognito-idp.{configuration.region}.amazonaws.com/{configuration.user_pool_id}"
        self._fetch, self._clock = fetch or _fetch, clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._lock = asyncio.Lock()
        self._client: CognitoIdentityProviderClient | None = None

    @property
    def label(self) -> str:
        """Which pool and application this is; another label, another sign-in."""
        return f"{self.configuration.user_pool_id} {self.configuration.client_id}"

    def client(self) -> CognitoIdentityProviderClient:
        """Cognito's public side, for which no AWS credentials are needed; where it is, boto3 knows (AWS_ENDPOINT_URL).

        Blocks when it is made, the first time; may then be used from any thread.
        """
        with _making:  # making clients, unlike using them, is not safe from several threads
            if self._client is None:
                self._client = _unsigned_client(self.configuration.region)
            return self._client

    def close(self) -> None:
        """Let go of connections. It can still be used: they are made anew."""
        with _making:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def verify(self, token: str, *, use: str | None = None, nonce: str | None = None) -> Identity:
        """Who this token speaks of. `use` (`id`, `access`; None: either) and `nonce` must be these.

        NotSignedIn for a token that is not good; CloudUnavailable when the pool's keys cannot be had.
        """
        header = _header(token)
        key = await self._key(str(header["kid"]))
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                issuer=self.issuer,
                leeway=LEEWAY_SECONDS,
                # Of access tokens the client stands elsewhere; both kinds are looked at below.
                options={"require": ["exp", "iat", "iss", "sub", "token_use"], "verify_aud": False},
            )
        except jwt.ExpiredSignatureError:
            raise NotSignedIn(f"{_BAD}it has expired; sign in again.") from None
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError) as problem:
            raise NotSignedIn(f"{_BAD}{type(problem).__name__}.") from None
        return self._identity(claims, use, nonce)

    async def reachable(self) -> None:
        """Returns if the pool's keys can be had now; else CloudUnavailable."""
        await self._refresh()

    def role(self, groups: tuple[str, ...]) -> Role:
        """What members of these groups may do. NotAllowed when that is nothing."""
        if set(groups) & set(self.configuration.admin_groups):
            return Role.ADMIN
        if not self.configuration.viewer_groups or set(groups) & set(self.configuration.viewer_groups):
            return Role.VIEWER
        raise NotAllowed("You are signed in, but in no group that may use this server; ask its administrator.")

    def principal(self, identity: Identity) -> Principal:
        """Who asks with such a token. NotAllowed."""
        return Principal(identity.username, self.role(identity.groups), "cognito")

    def _keys_url(self) -> str:
        endpoint = self.client().meta.endpoint_url.rstrip("/")
        return f"{endpoint}/{self.configuration.user_pool_id}/.well-known/jwks.json"

    def _identity(self, claims: dict[str, Any], use: str | None, nonce: str | None) -> Identity:
        found = claims["token_use"]
        if not isinstance(found, str) or found not in {"id", "access"} or use not in {None, found}:
            raise NotSignedIn(f"{_BAD}it is for another use.")
        # An array with our client among others would be somebody else's idea of an audience; Cognito sends a string.
        client = claims.get("aud" if found == "id" else "client_id")
        if client != self.configuration.client_id:
            raise NotSignedIn(f"{_BAD}it was issued to another application.")
        given = claims.get("nonce", "")
        if nonce is not None and not (isinstance(given, str) and hmac.compare_digest(given.encode(), nonce.encode())):
            raise NotSignedIn(f"{_BAD}it belongs to another sign-in.")
        username = claims.get("cognito:username" if found == "id" else "username")
        groups = claims.get("cognito:groups", [])
        if not isinstance(username, str) or not 0 < len(username) <= 256 or not username.isprintable():
            raise NotSignedIn(f"{_BAD}it has no user name.")
        if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
            raise NotSignedIn(f"{_BAD}its groups cannot be read.")
        try:
            expires_at = datetime.fromtimestamp(int(claims["exp"]), UTC)
        except (ValueError, OverflowError, OSError):
            raise NotSignedIn(f"{_BAD}its times cannot be read.") from None
        return Identity(claims["sub"], username, tuple(groups), expires_at, found, given)

    async def _key(self, key_id: str) -> jwt.PyJWK:
        if self._is_due(key_id):
            async with self._lock:
                if self._is_due(key_id):  # else somebody else just did it
                    try:
                        await self._refresh()
                    except CloudUnavailable:
                        if key_id not in self._keys:  # an old key is better than locking everybody out
                            raise
        if key_id not in self._keys:
            if not self._keys:
                raise CloudUnavailable("The user pool's keys could not be had; try again in a moment.")
            raise NotSignedIn(f"{_BAD}the user pool has no such key.")
        return self._keys[key_id]

    def _is_due(self, key_id: str) -> bool:
        now = self._clock()
        wanted = key_id not in self._keys or now - self._fetched_at > KEYS_SECONDS
        return wanted and now - self._tried_at > (REFETCH_SECONDS if self._keys else RETRY_SECONDS)

    async def _refresh(self) -> None:
        try:
            document = await self._fetch(await run_in_threadpool(self._keys_url))
        finally:
            self._tried_at = self._clock()
        try:
            keys = [key for key in jwt.PyJWKSet.from_dict(document).keys if key.key_type == "RSA" and key.key_id]
        except (jwt.PyJWTError, AttributeError, TypeError, ValueError) as problem:
            raise CloudUnavailable(f"The user pool's keys cannot be read: {type(problem).__name__}.") from None
        self._keys = {str(key.key_id): key for key in keys}
        self._fetched_at = self._clock()


def _header(token: str) -> dict[str, Any]:
    """The header of a token that is written in the one way a token is. NotSignedIn."""
    try:
        if len(token) > LONGEST_TOKEN or token.count(".") != 2:
            raise ValueError
        for part in token.split("."):
            # Base64 decoders are generous: without this, one token could be written in many ways.
            plain = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
            if base64.urlsafe_b64encode(plain).decode().rstrip("=") != part:
                raise ValueError
        header = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, binascii.Error, ValueError, UnicodeError):
        raise NotSignedIn(f"{_BAD}it is not a JSON web token.") from None
    if header.get("alg") != ALGORITHM or not isinstance(header.get("kid"), str):
        raise NotSignedIn(f"{_BAD}it is not signed by {ALGORITHM} with a named key.")
    return header


async def _fetch(url: str) -> dict[str, Any]:
    try:
        async with asyncio.timeout(FETCH_LIMIT_SECONDS), httpx.AsyncClient(timeout=FETCH_LIMIT_SECONDS) as client:
            answer = await client.get(url)
            answer.raise_for_status()
        if len(answer.content) > _LARGEST_KEY_SET:
            raise ValueError("it is too large")
        document = answer.json()
    except (httpx.HTTPError, TimeoutError, ValueError) as problem:
        raise CloudUnavailable(f"The user pool's keys at {url} cannot be had: {problem or 'no answer'}.") from problem
    return document if isinstance(document, dict) else {}


_making = threading.Lock()


def _unsigned_client(region: str) -> CognitoIdentityProviderClient:
    from botocore import UNSIGNED
    from botocore.config import Config

    limits = Config(
        signature_version=UNSIGNED,
        connect_timeout=FETCH_LIMIT_SECONDS,
        read_timeout=10,
        retries={"mode": "standard", "total_max_attempts": 2},
    )
    return _session().client("cognito-idp", region_name=region, config=limits)


@lru_cache(maxsize=1)
def _session() -> boto3.Session:
    """One for all clients: it has read AWS's description of the service already."""
    import boto3  # half a second, which a server without Cognito need not wait for

    return boto3.Session()
