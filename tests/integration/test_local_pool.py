"""localcloud's user pools refuse what AWS refuses, and moto's private names that they stand on are still there."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jwt
import pytest
import uvicorn
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from api.app import create_app
from localcloud.stack.client import StackClient
from localcloud.stack.sign_in import add_client, add_user, made_up_password, set_up
from localcloud.stack.stack import StackPlace, StackState
from perdure import waiting
from perdure.settings import ApiSettings
from tests.integration.pool_bed import CALLBACK, REGION, PoolBed, pool_bed
from tests.patience import PATIENCE

VERIFIER = "v" * 64


@pytest.fixture(scope="module")
def bed() -> Iterator[PoolBed]:
    with pool_bed() as bed:
        yield bed


def refused(code: str, call: Callable[[], object], *words: str) -> None:
    with pytest.raises(ClientError) as problem:
        call()
    assert problem.value.response["Error"]["Code"] == code
    for word in words:
        assert word in problem.value.response["Error"]["Message"]


def sign_in(
    bed: PoolBed, username: str, password: str, client_id: str = "", flow: str = "USER_PASSWORD_AUTH"
) -> object:
    given = {"USERNAME": username, "PASSWORD": password, "SRP_A": "a1"}
    return bed.unsigned.initiate_auth(
        ClientId=client_id or bed.pool.client_id,
        AuthFlow=flow,  # type: ignore[arg-type]
        AuthParameters=given,
    )


def test_a_password_is_needed_and_no_other_way_is_open(bed: PoolBed) -> None:
    assert bed.tokens()["IdToken"]
    refused("NotAuthorizedException", lambda: sign_in(bed, "ann", "wrong"))
    for flow in ("USER_SRP_AUTH", "CUSTOM_AUTH", "USER_AUTH"):
        refused("InvalidParameterException", partial(sign_in, bed, "ann", "wrong", flow=flow), "not enabled")
    refused("ResourceNotFoundException", lambda: sign_in(bed, "ann", bed.PASSWORD, "nobody"))
    with_secret = add_client(bed.admin, bed.pool.user_pool_id, [], secret=True)
    refused("NotAuthorizedException", lambda: sign_in(bed, "ann", bed.PASSWORD, with_secret), "SECRET_HASH")
    no_password = bed.admin.create_user_pool_client(UserPoolId=bed.pool.user_pool_id, ClientName="no password")
    client_id = no_password["UserPoolClient"]["ClientId"]
    refused("InvalidParameterException", lambda: sign_in(bed, "ann", bed.PASSWORD, client_id), "not enabled")


def test_tokens_verify_with_the_pools_published_key(bed: PoolBed) -> None:
    keys = jwt.PyJWKSet.from_dict(
        bed.http.get(f"{bed.url}/{bed.pool.user_pool_id}/.well-known/jwks.json").raise_for_status().json()
    )
    tokens = bed.tokens()
    key = keys[jwt.get_unverified_header(tokens["IdToken"])["kid"]]
    issuer = f"https://cognito-idp.{REGION}.amazonaws.com/{bed.pool.user_pool_id}"
    claims = jwt.decode(tokens["IdToken"], key, ["RS256"], audience=bed.pool.client_id, issuer=issuer)
    assert (claims["token_use"], claims["cognito:groups"], claims["cognito:username"]) == ("id", ["admin"], "ann")
    claims = jwt.decode(tokens["AccessToken"], key, ["RS256"], issuer=issuer)
    assert (claims["token_use"], claims["client_id"], claims["username"]) == ("access", bed.pool.client_id, "ann")


def test_a_challenge_is_its_users_alone(bed: PoolBed) -> None:
    add_user(bed.admin, bed.pool.user_pool_id, "new", "Temporary-1", [], temporary=True)
    challenge = bed.unsigned.initiate_auth(
        ClientId=bed.pool.client_id,
        AuthFlow="USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": "new", "PASSWORD": "Temporary-1"},
    )
    assert challenge["ChallengeName"] == "NEW_PASSWORD_REQUIRED"

    def answer(username: str, session: str = challenge["Session"], name: str = "NEW_PASSWORD_REQUIRED") -> object:
        return bed.unsigned.respond_to_auth_challenge(
            ClientId=bed.pool.client_id,
            ChallengeName=name,  # type: ignore[arg-type]
            Session=session,
            ChallengeResponses={"USERNAME": username, "NEW_PASSWORD": "Another-One-1"},
        )

    refused("NotAuthorizedException", lambda: answer("ann"))
    refused("NotAuthorizedException", lambda: answer("new", session="x" * 36))
    refused("InvalidParameterException", lambda: answer("new", name="PASSWORD_VERIFIER"))
    answer("new")
    refused("NotAuthorizedException", lambda: answer("new"))


def test_a_code_of_an_authenticator_is_checked(bed: PoolBed) -> None:
    add_user(bed.admin, bed.pool.user_pool_id, "tom", bed.PASSWORD, [])
    access = bed.tokens("tom")["AccessToken"]
    secret = bed.unsigned.associate_software_token(AccessToken=access)["SecretCode"]
    code = authenticator_code(secret)
    refused("CodeMismatchException", lambda: bed.unsigned.verify_software_token(AccessToken=access, UserCode="000000"))
    bed.unsigned.verify_software_token(AccessToken=access, UserCode=code)


def test_a_code_that_is_typed_as_the_next_one_comes_is_taken(bed: PoolBed, monkeypatch: pytest.MonkeyPatch) -> None:
    add_user(bed.admin, bed.pool.user_pool_id, "tim", bed.PASSWORD, [])
    access = bed.tokens("tim")["AccessToken"]
    secret = bed.unsigned.associate_software_token(AccessToken=access)["SecretCode"]
    monkeypatch.setattr("moto.cognitoidp.utils.time", SimpleNamespace(time=lambda: 1_800_000_001))
    verify = partial(bed.unsigned.verify_software_token, AccessToken=access)
    verify(UserCode=authenticator_code(secret, 1_799_999_999))
    refused("CodeMismatchException", lambda: verify(UserCode=authenticator_code(secret, 1_799_999_969)))


def authenticator_code(secret: str, at: float | None = None) -> str:
    """What an authenticator app shows now, or showed then (seconds since 1970)."""
    padded = secret + "=" * (-len(secret) % 8)
    key = base64.b32decode(padded, casefold=True)
    shown = TOTP(key, 6, SHA1(), 30, enforce_key_length=False).generate(int(time.time() if at is None else at))
    return shown.decode()


def test_refresh_tokens_are_one_clients_and_can_be_revoked(bed: PoolBed) -> None:
    token = bed.tokens()["RefreshToken"]
    other = add_client(bed.admin, bed.pool.user_pool_id, [])

    def refresh(client_id: str) -> object:
        return bed.unsigned.initiate_auth(
            ClientId=client_id, AuthFlow="REFRESH_TOKEN_AUTH", AuthParameters={"REFRESH_TOKEN": token}
        )

    assert refresh(bed.pool.client_id)
    refused("NotAuthorizedException", lambda: refresh(other))
    refused("UnauthorizedException", lambda: bed.unsigned.revoke_token(Token=token, ClientId=other))
    for _ in range(2):
        bed.unsigned.revoke_token(Token=token, ClientId=bed.pool.client_id)
        refused("NotAuthorizedException", lambda: refresh(bed.pool.client_id))
    tokens = bed.tokens()
    bed.unsigned.global_sign_out(AccessToken=tokens["AccessToken"])
    token = tokens["RefreshToken"]
    refused("NotAuthorizedException", lambda: refresh(bed.pool.client_id))


# The hosted pages


def test_a_code_becomes_tokens_once(bed: PoolBed) -> None:
    code = bed.code(VERIFIER)
    tokens = bed.redeem(code, VERIFIER).raise_for_status().json()
    claims = jwt.decode(tokens["id_token"], options={"verify_signature": False})
    assert (claims["nonce"], claims["cognito:groups"], claims["aud"]) == ("n", ["admin"], bed.pool.client_id)
    again = bed.redeem(code, VERIFIER)
    assert (again.status_code, again.json()) == (400, {"error": "invalid_grant"})
    form = {"grant_type": "refresh_token", "client_id": bed.pool.client_id, "refresh_token": tokens["refresh_token"]}
    assert bed.http.post(f"{bed.pool.domain}/oauth2/token", data=form).json()["id_token"]


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("verifier", {"code_verifier": "w" * 64}),
        ("no verifier", {"code_verifier": ""}),
        ("redirect address", {"redirect_uri": f"{CALLBACK}/x"}),
        ("code", {"code": "x"}),
        ("grant", {"grant_type": "password"}),
        ("client", {"client_id": "nobody"}),
    ],
)
def test_a_code_is_bound(bed: PoolBed, what: str, changes: dict[str, str]) -> None:
    code = bed.code(VERIFIER)
    assert bed.redeem(code, VERIFIER, **changes).status_code == 400, what
    if what not in {"grant", "client", "code"}:
        assert bed.redeem(code, VERIFIER).status_code == 400, "it was used"


def test_a_code_ends_after_five_minutes_and_is_one_clients(bed: PoolBed) -> None:
    code = bed.code(VERIFIER)
    bed.clock[0] += 301
    assert bed.redeem(code, VERIFIER).status_code == 400
    other = add_client(bed.admin, bed.pool.user_pool_id, ["http://127.0.0.1:1234"])
    assert bed.redeem(bed.code(VERIFIER), VERIFIER, client_id=other).status_code == 400


@pytest.mark.parametrize(
    "changes",
    [
        {"redirect_uri": "https://evil.example/"},
        {"redirect_uri": CALLBACK + "x"},
        {"response_type": "token"},
        {"scope": "email"},
        {"code_challenge": ""},
        {"code_challenge_method": "plain"},
        {"client_id": "nobody"},
    ],
)
def test_a_bad_authorisation_is_an_error_page_not_a_redirect(bed: PoolBed, changes: dict[str, str]) -> None:
    answer = bed.http.get(bed.authorize(VERIFIER, **changes))
    assert answer.status_code == 400 and "location" not in answer.headers


def test_the_form_wants_the_password(bed: PoolBed) -> None:
    for username, password in (("ann", "wrong"), ("nobody", bed.PASSWORD)):
        answer = bed.fill_in(bed.authorize(VERIFIER), username, password)
        assert answer.status_code == 400 and "Incorrect" in answer.text and "location" not in answer.headers
    add_user(bed.admin, bed.pool.user_pool_id, "tem", "Temporary-1", [], temporary=True)
    assert "new password" in bed.fill_in(bed.authorize(VERIFIER), "tem", "Temporary-1").text


def test_logout_returns_to_registered_places_only(bed: PoolBed) -> None:
    where = f"{bed.pool.domain}/logout"
    good = {"client_id": bed.pool.client_id, "logout_uri": "http://127.0.0.1:1234/sign-in"}
    assert bed.http.get(where, params=good).headers["location"] == good["logout_uri"]
    assert bed.http.get(where, params=good | {"logout_uri": "https://evil.example/"}).status_code == 400
    assert bed.http.get(f"{bed.pool.domain}/nothing").status_code == 404
    assert bed.http.delete(where).status_code == 405


# `perdure local sign-in`


@contextmanager
def served_api(folder: Path) -> Iterator[str]:
    """An API server with a database of its own; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(ApiSettings(database_url=f"sqlite:///{folder}/perdure.db"))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def test_a_stacks_server_asks_for_sign_in_and_its_own_commands_go_on(
    bed: PoolBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", bed.url)
    place = StackPlace("here", tmp_path)
    place.folder.mkdir()
    with served_api(tmp_path) as url:
        password = made_up_password()
        state = StackState(stack="here", api_url=url, aws_endpoint_url=bed.url, region=REGION)
        with contextlib.closing(StackClient(state)) as stack:
            assert set_up(stack, place, "lea", password, ["admin"]) == f"{url}/sign-in"
            assert set_up(stack, place, "vera", password, ["viewer"]) == f"{url}/sign-in"
            assert place.token_file.stat().st_mode & 0o777 == 0o600
            assert stack.asked("GET", "/api/v1/auth/me")["role"] == "admin"
        for username, role in (("lea", "admin"), ("vera", "viewer")):
            given = {"username": username, "password": password}
            assert bed.http.post(f"{url}/api/v1/auth/sign-in", json=given).json()["me"]["role"] == role
        # The door believes for a second that there is no sign-in.
        waiting.until(lambda: bed.http.get(f"{url}/api/v1/auth/me").status_code == 401, PATIENCE)
