"""Trying a sign-in before it is turned on: with a user pool that is not in force yet, and without a session.

An admin who got in at a trial has shown that turning that sign-in on locks nobody out (lock_out.py). It is remembered
for a while, in memory: who restarts the server tries once more.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

import structlog
from fastapi.concurrency import run_in_threadpool

from api.auth import user_pool
from api.auth.cognito import Pool
from api.auth.principals import Role
from api.auth.user_pool import Challenge
from perdure.domain.configuration import CognitoConfiguration
from perdure.domain.errors import NotAllowed, PerdureError
from perdure.domain.values import Frozen

log = structlog.get_logger(__name__)

PROOF_SECONDS = 900.0
"""How long a trial proves that an admin can get in."""
_MOST_PROOFS = 100


class Proofs:
    """Which sign-in each person has lately shown to work for an admin. Belongs to the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._shown: OrderedDict[str, tuple[float, CognitoConfiguration]] = OrderedDict()

    def note(self, by: str, cognito: CognitoConfiguration) -> None:
        """`by` has just signed in as an admin there."""
        self._shown.pop(by, None)
        self._shown[by] = (self._clock(), cognito)
        while len(self._shown) > _MOST_PROOFS:
            self._shown.popitem(last=False)

    def of(self, by: str) -> CognitoConfiguration | None:
        """What `by` has shown, if that is not too long ago."""
        at, cognito = self._shown.get(by, (float("-inf"), None))
        return cognito if self._clock() - at < PROOF_SECONDS else None


class Trial(Frozen):
    """How a trial went: the pool asks for more (`challenge`), it did not work (`problem`), or somebody is in; `role`
    None: in the pool, but in no group that may use this server."""

    challenge: tuple[str, str, str] | None = None
    """Its name, its session, and the user name to answer by."""
    problem: str = ""
    username: str = ""
    groups: tuple[str, ...] = ()
    role: Role | None = None


async def try_sign_in(
    cognito: CognitoConfiguration, username: str, secret: str, challenge: tuple[str, str] | None
) -> Trial:
    """`secret`: the password, or the answer to `challenge` (its name and session). NotSignedIn when it is wrong;
    CloudUnavailable, PoolMisconfigured, TooManyTries."""
    pool = Pool(cognito)
    try:
        if challenge is None:
            result = await run_in_threadpool(user_pool.sign_in, pool, username, secret)
        else:
            asked = Challenge(*challenge, username)
            result = await run_in_threadpool(user_pool.answer_challenge, pool, asked, secret)
        if isinstance(result, Challenge):
            return Trial(challenge=(result.name, result.session, result.username))
        identity = await pool.verify(result.id_token, use="id")
        role = _role(pool, identity.groups)
        if result.refresh_token:
            await _end(pool, result.refresh_token)
        return Trial(username=identity.username, groups=identity.groups, role=role)
    finally:
        pool.close()


async def _end(pool: Pool, refresh_token: str) -> None:
    """It was a trial: nothing of it is to stay good."""
    try:
        await run_in_threadpool(user_pool.end, pool, refresh_token)
    except PerdureError as problem:  # such as a client without token revocation: it ends by itself
        log.info("the refresh token of a trial was not revoked", problem=str(problem))


def _role(pool: Pool, groups: tuple[str, ...]) -> Role | None:
    try:
        return pool.role(groups)
    except NotAllowed:
        return None
