"""Tokens that a user pool may or may not have issued: only a good one opens anything, whatever is changed about it."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from api.auth.cognito import KEYS_SECONDS, LEEWAY_SECONDS, REFETCH_SECONDS, RETRY_SECONDS, Identity, Pool
from api.auth.hosted import safe_next
from api.auth.principals import Role
from perdure.domain.configuration import CognitoConfiguration
from perdure.domain.errors import CloudUnavailable, NotAllowed, NotSignedIn

KEY, OTHER_KEY = (rsa.generate_private_key(65537, 2048) for _ in range(2))
CONFIGURATION = CognitoConfiguration(
    enabled=True, region="eu-west-1", user_pool_id="eu-west-1_Pool", client_id="client", viewer_groups=["science"]
)
ISSUER = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Pool"


def key_set(**keys: rsa.RSAPrivateKey) -> dict[str, Any]:
    """As a pool publishes it."""
    return {
        "keys": [
            {
                **json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())),
                "kid": kid,
                "alg": "RS256",
                "use": "sig",
            }
            for kid, key in keys.items()
        ]
    }


class PlayedPool:
    """A pool whose keys the test publishes."""

    def __init__(self) -> None:
        self.published: dict[str, Any] | Exception = key_set(one=KEY)
        self.fetched = 0
        self.now = 0.0
        self.pool = Pool(CONFIGURATION, self._fetch, lambda: self.now)
        self.pool._keys_url = lambda: "https://keys"  # type: ignore[method-assign]

    async def _fetch(self, url: str) -> dict[str, Any]:
        self.fetched += 1
        if isinstance(self.published, Exception):
            raise self.published
        return self.published

    def verify(self, token: str, **more: Any) -> Identity:
        return asyncio.run(self.pool.verify(token, **more))


def claims(use: str = "id", **changes: Any) -> dict[str, Any]:
    now = int(datetime.now(UTC).timestamp())
    name = {"id": {"aud": "client", "cognito:username": "ann"}, "access": {"client_id": "client", "username": "ann"}}
    given = {
        "iss": ISSUER,
        "sub": "subject",
        "token_use": use,
        "iat": now,
        "exp": now + 3600,
        "cognito:groups": ["admin"],
        **name[use],
        **changes,
    }
    return {name: value for name, value in given.items() if value is not None}


def token(payload: dict[str, Any] | None = None, key: Any = KEY, algorithm: str = "RS256", **header: Any) -> str:
    return jwt.encode(payload or claims(), key, algorithm, headers={"kid": "one", **header})


PLAYED = PlayedPool()
GOOD = token()


def test_a_header_by_hand_is_as_good_as_any() -> None:
    assert PLAYED.verify(_signed({"alg": "RS256", "kid": "one"})).username == "ann"


@pytest.mark.parametrize("use", ["id", "access"])
def test_a_good_token_says_who_it_is(use: str) -> None:
    found = PLAYED.verify(token(claims(use, nonce="n")))
    assert (found.subject, found.username, found.groups, found.use) == ("subject", "ann", ("admin",), use)
    assert PLAYED.verify(token(claims(use)), use=use).expires_at > datetime.now(UTC)
    with pytest.raises(NotSignedIn):
        PLAYED.verify(token(claims(use)), use="id" if use == "access" else "access")


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Other"},
        {"iss": ISSUER + "/"},
        {"iss": None},
        {"aud": "other"},
        {"aud": ["client", "other"]},
        {"aud": None},
        {"aud": None, "client_id": "client"},
        {"token_use": "refresh"},
        {"token_use": ["id"]},
        {"token_use": None},
        {"exp": None},
        {"exp": "soon"},
        {"exp": 10**30},
        {"iat": None},
        {"sub": None},
        {"sub": 7},
        {"cognito:username": None},
        {"cognito:username": ""},
        {"cognito:username": "a\nb"},
        {"cognito:username": ["ann"]},
        {"cognito:groups": "admin"},
        {"cognito:groups": [1]},
        {"cognito:groups": {"admin": True}},
    ],
)
def test_claims_that_are_not_right_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(NotSignedIn):
        PLAYED.verify(token(claims(**changes)))


def test_an_id_token_is_no_access_token() -> None:
    for payload in (claims(token_use="access"), claims("access", token_use="id")):
        with pytest.raises(NotSignedIn):
            PLAYED.verify(token(payload))


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
def test_clocks_may_differ_by_the_leeway_and_no_more(name: str) -> None:
    now = int(datetime.now(UTC).timestamp())
    way = -1 if name == "exp" else 1
    assert PLAYED.verify(token(claims() | {name: now + way * (LEEWAY_SECONDS - 15)}))
    with pytest.raises(NotSignedIn):
        PLAYED.verify(token(claims() | {name: now + way * (LEEWAY_SECONDS + 15)}))


def test_the_nonce_must_be_that_of_the_sign_in() -> None:
    assert PLAYED.verify(token(claims(nonce="mine")), nonce="mine")
    for payload in (claims(nonce="other"), claims(), claims(nonce=["mine"])):
        with pytest.raises(NotSignedIn):
            PLAYED.verify(token(payload), nonce="mine")


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def _unsigned(header: dict[str, Any]) -> str:
    return f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(claims()).encode())}."


def _signed(header: dict[str, Any]) -> str:
    """By the pool's key, whatever the header says."""
    written = _unsigned(header).rstrip(".")
    return f"{written}.{_encoded(KEY.sign(written.encode(), PKCS1v15(), SHA256()))}"


def _classic() -> str:
    """The public key as the secret of a symmetric signature."""
    written = _unsigned({"alg": "HS256", "kid": "one"}).rstrip(".")
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return f"{written}.{_encoded(hmac.digest(public, written.encode(), 'sha256'))}"


@pytest.mark.parametrize(
    "made",
    [
        lambda: token(key=OTHER_KEY),
        lambda: token(key=OTHER_KEY, kid="two"),
        lambda: token(algorithm="RS512"),
        lambda: token(algorithm="PS256"),
        lambda: token(key="s" * 32, algorithm="HS256"),
        lambda: _classic(),
        lambda: _unsigned({"alg": "none", "kid": "one"}),
        lambda: _unsigned({"alg": "None", "kid": "one"}),
        lambda: _unsigned({"alg": "RS256", "kid": "one"}),
        lambda: _signed({"alg": "RS256"}),
        lambda: _signed({"alg": "RS256", "kid": ["one"]}),
        lambda: token(crit=["exp"]),
        lambda: jwt.encode(claims(), KEY, "RS256"),
    ],
)
def test_signatures_that_are_not_the_pools_are_refused(made: Callable[[], str]) -> None:
    forged = made()
    with pytest.raises(NotSignedIn):
        PLAYED.verify(forged)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_letter_of_a_token_can_be_changed(data: st.DataObject) -> None:
    where = data.draw(st.integers(0, len(GOOD)))
    kind = data.draw(st.sampled_from(["replace", "insert", "delete", "cut"]))
    letter = data.draw(st.sampled_from("ABCabc019-_=.+/ \n\x00é"))
    changed = {
        "replace": GOOD[:where] + letter + GOOD[where + 1 :],
        "insert": GOOD[:where] + letter + GOOD[where:],
        "delete": GOOD[:where] + GOOD[where + 1 :],
        "cut": GOOD[:where],
    }[kind]
    if changed == GOOD:
        return
    with pytest.raises(NotSignedIn):
        PLAYED.verify(changed)


def test_no_last_letter_of_a_signature_means_the_same() -> None:
    """256 bytes leave four bits over in the last letter: a generous decoder takes sixteen letters for one."""
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        if letter != GOOD[-1]:
            with pytest.raises(NotSignedIn):
                PLAYED.verify(GOOD[:-1] + letter)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.builds("{}.{}.{}".format, st.text(), st.text(), st.text()))
def test_any_text_is_refused_as_such(text: str) -> None:
    with pytest.raises(NotSignedIn):
        PLAYED.verify(text)


# Keys


def test_keys_are_fetched_once_and_again_for_a_new_one_but_not_for_every_invented_one() -> None:
    played = PlayedPool()
    for _ in range(3):
        played.verify(token())
    assert played.fetched == 1
    played.published = key_set(one=KEY, two=OTHER_KEY)
    new = token(key=OTHER_KEY, kid="two")
    with pytest.raises(NotSignedIn):
        played.verify(new)  # asked a moment ago
    played.now += REFETCH_SECONDS + 1
    assert played.verify(new)
    for number in range(50):
        with pytest.raises(NotSignedIn):
            played.verify(token(kid=f"invented-{number}"))
    assert played.fetched == 2


def test_old_keys_hold_while_the_pool_is_away_and_a_withdrawn_one_does_not() -> None:
    played = PlayedPool()
    played.verify(token())
    played.published = CloudUnavailable("away")
    played.now += KEYS_SECONDS + 1
    assert played.verify(token())
    played.published = key_set(two=OTHER_KEY)
    played.now += REFETCH_SECONDS + 1
    with pytest.raises(NotSignedIn):
        played.verify(token())


def test_without_any_keys_nobody_is_told_that_the_token_is_bad() -> None:
    played = PlayedPool()
    played.published = CloudUnavailable("away")
    for _ in range(2):
        with pytest.raises(CloudUnavailable):
            played.verify(token())
    played.published = key_set(one=KEY)
    played.now += RETRY_SECONDS + 1
    assert played.verify(token())


@pytest.mark.parametrize(
    "published", [{}, {"keys": []}, {"keys": "x"}, {"keys": [{}]}, {"keys": [{"kty": "oct", "k": "AA"}]}]
)
def test_a_key_set_that_is_none_opens_nothing(published: dict[str, Any]) -> None:
    played = PlayedPool()
    played.published = published
    with pytest.raises(CloudUnavailable):
        played.verify(token())


async def test_many_at_once_fetch_once() -> None:
    played = PlayedPool()
    await asyncio.gather(*(played.pool.verify(GOOD) for _ in range(20)))
    assert played.fetched == 1


# Groups


@pytest.mark.parametrize(
    ("groups", "role"),
    [
        (("admin",), Role.ADMIN),
        (("science", "admin"), Role.ADMIN),
        (("science",), Role.VIEWER),
        (("Admin",), None),
        ((), None),
    ],
)
def test_groups_become_roles(groups: tuple[str, ...], role: Role | None) -> None:
    if role is None:
        with pytest.raises(NotAllowed):
            PLAYED.pool.role(groups)
    else:
        assert PLAYED.pool.role(groups) is role


def test_without_viewer_groups_everyone_of_the_pool_may_look() -> None:
    assert Pool(CONFIGURATION.model_copy(update={"viewer_groups": []})).role(()) is Role.VIEWER


# Where to go afterwards


@settings(deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"[/\\]{1,3}[a-z.:/\\@]{0,20}", fullmatch=True))
def test_afterwards_is_always_a_path_of_this_server(text: str) -> None:
    safe = safe_next(text)
    assert safe.startswith("/") and safe[1:2] not in {"/", "\\"} and safe.isprintable() and "\\" not in safe
    assert safe in {text, "/"}


def test_a_time_to_come_is_told_in_utc() -> None:
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    assert PLAYED.verify(token(claims(exp=int(at.timestamp())))).expires_at == at
