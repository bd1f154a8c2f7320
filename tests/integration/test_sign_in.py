"""Signing in with Cognito, at a pool of localcloud on a real socket: what is let in, and everything that is not."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlmodel import select

from api.auth.sessions import _unsealed
from localcloud.stack.sign_in import add_client, add_user
from perdure.domain.configuration import CognitoConfiguration
from perdure.domain.sign_in import IDLE_SESSION, LONGEST_SESSION, LONGEST_WAY, RECHECK_GROUPS
from perdure.records.schema.database import reading, writing
from perdure.records.schema.sign_in_tables import HostedWayRow, SessionRow
from tests.integration.pool_bed import SERVER, PoolBed, pool_bed
from tests.integration.sign_in_bed import BROWSER, Served, cognito_of, sign_in_bed
from tests.integration.test_local_pool import authenticator_code

AUTH = "/api/v1/auth"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def bed() -> Iterator[PoolBed]:
    with pool_bed() as bed, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", bed.url)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield bed


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def application(bed: PoolBed, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with sign_in_bed(tmp_path_factory.mktemp("sign-in"), bed) as served:
        yield served


@pytest.fixture
def served(application: Served, bed: PoolBed) -> Served:
    application.begin_anew(cognito_of(bed))
    return application


@pytest_asyncio.fixture(loop_scope="module")
async def browser(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with served.browser() as browser:
        yield browser


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def refused(answer: httpx.Response, status: int, code: str, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"} and answer.json()["error"]["code"] == code, answer.text
    for word in words:
        assert word in answer.text


def sign_in(who: httpx.AsyncClient, username: str = "ann", password: str = PoolBed.PASSWORD, **more: str) -> Any:
    return who.post(f"{AUTH}/sign-in", json={"username": username, "password": password, **more})


async def signed_in(browser: httpx.AsyncClient, username: str = "ann") -> httpx.AsyncClient:
    answer = await sign_in(browser, username, keep="cookie")
    assert answer.status_code == 200, answer.text
    return browser


def age(served: Served, **columns: timedelta) -> None:
    """Make every session older: these columns are moved back."""
    with writing(served.app.state.engine) as session:
        for row in session.exec(select(SessionRow)):
            for name, by in columns.items():
                setattr(row, name, getattr(row, name) - by)


# Tokens as Bearer


@pytest.mark.parametrize("kind", ["IdToken", "AccessToken"])
async def test_tokens_of_the_pool_open_what_their_groups_may(served: Served, bed: PoolBed, kind: str) -> None:
    for username, role in (("ann", "admin"), ("vic", "viewer"), ("noe", "viewer")):
        token = bed.tokens(username)[kind]
        me = (await served.http.get(f"{AUTH}/me", headers=bearer(token))).json()
        assert (me["name"], me["role"], me["via"]) == (username, role, "cognito")
        changed = await served.http.delete("/api/v1/tokens/1", headers=bearer(token))
        assert changed.status_code == (404 if role == "admin" else 403)


async def test_without_sign_in_nobody_gets_in_over_loopback_either(served: Served) -> None:
    refused(await served.http.get("/api/v1/jobs"), 401, "not_signed_in")
    refused(await served.http.post("/api/v1/tokens", json={"name": "x"}), 401, "not_signed_in")
    assert (await served.http.get("/api/v1/health")).status_code in {200, 503}


async def test_where_viewers_need_a_group_others_are_not_allowed(served: Served, bed: PoolBed) -> None:
    served.configure(cognito_of(bed, viewer_groups=["viewer"]))
    for username, status in (("ann", 200), ("vic", 200), ("noe", 403)):
        token = bed.tokens(username)["AccessToken"]
        assert (await served.http.get(f"{AUTH}/me", headers=bearer(token))).status_code == status
    refused(await sign_in(served.http, "noe"), 403, "not_allowed", "administrator")
    refused(await sign_in(served.http, "noe", keep="cookie"), 403, "not_allowed")


async def test_tokens_of_other_pools_and_clients_are_refused(served: Served, bed: PoolBed) -> None:
    other_pool = bed.another_pool()
    other_client = add_client(bed.admin, bed.pool.user_pool_id, [SERVER])
    for tokens in (bed.tokens(pool=other_pool), bed.tokens(client_id=other_client)):
        for kind in ("IdToken", "AccessToken"):
            refused(await served.http.get(f"{AUTH}/me", headers=bearer(tokens[kind])), 401, "not_signed_in")


@pytest.mark.parametrize("token", ["x.y.z", "..", "a.b", "prd_nothing", "\xff.x.y", "x" * 20_000 + ".y.z"])
async def test_what_is_no_token_is_refused(served: Served, token: str) -> None:
    headers = [(b"authorization", b"Bearer " + token.encode("latin-1"))]
    refused(await served.http.get("/api/v1/jobs", headers=headers), 401, "not_signed_in")


async def test_when_the_pools_keys_cannot_be_had_it_is_503(
    served: Served, bed: PoolBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = bed.tokens()["IdToken"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    served.configure(cognito_of(bed, admin_groups=["admin", "new"]))  # a new configuration begins anew
    refused(await served.http.get(f"{AUTH}/me", headers=bearer(token)), 503, "cloud_unavailable")
    refused(await sign_in(served.http), 503, "cloud_unavailable")


# By password


async def test_a_program_gets_tokens_and_refreshes_them(served: Served) -> None:
    answer = (await sign_in(served.http)).json()
    assert answer["me"]["role"] == "admin" and answer["challenge"] is None
    assert not served.http.cookies
    refreshed = await served.http.post(f"{AUTH}/refresh", json={"refresh_token": answer["tokens"]["refresh_token"]})
    token = refreshed.json()["tokens"]["id_token"]
    assert (await served.http.get(f"{AUTH}/me", headers=bearer(token))).json()["name"] == "ann"
    gone = {"refresh_token": answer["tokens"]["refresh_token"]}
    assert (await served.http.post(f"{AUTH}/sign-out", json=gone)).status_code == 204
    refused(await served.http.post(f"{AUTH}/refresh", json=gone), 401, "not_signed_in")


async def test_a_wrong_password_and_an_unknown_user_are_answered_alike(served: Served) -> None:
    wrong, unknown = await sign_in(served.http, "ann", "wrong"), await sign_in(served.http, "nobody", "wrong")
    refused(wrong, 401, "not_signed_in", "wrong")
    assert (wrong.status_code, wrong.content) == (unknown.status_code, unknown.content)
    names = {"content-length", "content-type", "www-authenticate"}
    assert {n: wrong.headers[n] for n in names} == {n: unknown.headers[n] for n in names}


async def test_after_some_failures_one_has_to_wait_for_the_right_password_too(served: Served, bed: PoolBed) -> None:
    add_user(bed.admin, bed.pool.user_pool_id, "tim", bed.PASSWORD, [])
    for _ in range(10):
        refused(await sign_in(served.http, "tim", "wrong"), 401, "not_signed_in")
    waits = await sign_in(served.http, "tim")
    refused(waits, 429, "too_many_tries")
    assert 0 < int(waits.headers["retry-after"]) <= 30


async def test_the_first_sign_in_asks_for_a_new_password(served: Served, bed: PoolBed) -> None:
    add_user(bed.admin, bed.pool.user_pool_id, "new", "Temporary-1", ["viewer"], temporary=True)
    asked = (await sign_in(served.http, "new", "Temporary-1")).json()
    assert asked["challenge"]["challenge"] == "NEW_PASSWORD_REQUIRED" and asked["tokens"] is None
    answer = {**asked["challenge"], "answer": "short"}
    refused(await served.http.post(f"{AUTH}/challenge", json=answer), 422, "invalid_request", "password")
    stolen = {**answer, "username": "ann", "answer": "Another-One-1"}
    refused(await served.http.post(f"{AUTH}/challenge", json=stolen), 401, "not_signed_in")
    answer["answer"] = "Another-One-1"
    done = await served.http.post(f"{AUTH}/challenge", json=answer)
    assert done.json()["me"] | {"name": "new", "role": "viewer"} == done.json()["me"]
    refused(await served.http.post(f"{AUTH}/challenge", json=answer), 401, "not_signed_in")
    assert (await sign_in(served.http, "new", "Another-One-1")).status_code == 200


async def test_a_second_factor_is_asked_for_and_checked(served: Served, bed: PoolBed) -> None:
    add_user(bed.admin, bed.pool.user_pool_id, "mfa", bed.PASSWORD, [])
    access = bed.tokens("mfa")["AccessToken"]
    secret = bed.unsigned.associate_software_token(AccessToken=access)["SecretCode"]
    bed.unsigned.verify_software_token(AccessToken=access, UserCode=authenticator_code(secret))
    preference = {"Enabled": True, "PreferredMfa": True}
    bed.unsigned.set_user_mfa_preference(AccessToken=access, SoftwareTokenMfaSettings=preference)  # type: ignore[arg-type]
    asked = (await sign_in(served.http, "mfa")).json()["challenge"]
    assert asked["challenge"] == "SOFTWARE_TOKEN_MFA"
    wrong = {**asked, "answer": "000000"}
    refused(await served.http.post(f"{AUTH}/challenge", json=wrong), 401, "not_signed_in", "code")
    right = {**asked, "answer": authenticator_code(secret)}
    assert (await served.http.post(f"{AUTH}/challenge", json=right)).json()["me"]["name"] == "mfa"


async def test_a_client_that_cannot_be_signed_in_with_is_explained(served: Served, bed: PoolBed) -> None:
    with_secret = add_client(bed.admin, bed.pool.user_pool_id, [], secret=True)
    served.configure(cognito_of(bed, client_id=with_secret))
    refused(await sign_in(served.http), 409, "pool_misconfigured", "secret")
    bare = bed.admin.create_user_pool_client(UserPoolId=bed.pool.user_pool_id, ClientName="bare")
    served.configure(cognito_of(bed, client_id=bare["UserPoolClient"]["ClientId"]))
    refused(await sign_in(served.http), 409, "pool_misconfigured", "ALLOW_USER_PASSWORD_AUTH")
    served.configure(cognito_of(bed, client_id="nobody"))
    refused(await sign_in(served.http), 409, "pool_misconfigured")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"username": "ann"},
        {"username": "", "password": "x"},
        {"username": "a" * 200, "password": "x"},
        {"username": "ann", "password": "x", "keep": "forever"},
        {"username": "ann", "password": "x", "role": "admin"},
        {"username": ["ann"], "password": {"$ne": ""}},
    ],
)
async def test_a_request_that_is_not_one_is_named_and_passwords_are_not_repeated(served: Served, body: Any) -> None:
    refused(await served.http.post(f"{AUTH}/sign-in", json=body), 422, "invalid_request")
    secret = {"username": 5, "password": "Hunter-2-hunter", "more": 1}
    answer = await served.http.post(f"{AUTH}/sign-in", json=secret)
    assert answer.status_code == 422 and "Hunter" not in answer.text


async def test_where_sign_in_is_off_it_says_so(served: Served, bed: PoolBed) -> None:
    token = bed.tokens()["IdToken"]
    served.configure(cognito_of(bed, enabled=False))
    assert (await served.http.get(AUTH)).json()["enabled"] is False
    refused(await sign_in(served.http), 401, "not_signed_in", "not set up")
    refused(await served.http.get(f"{AUTH}/hosted"), 401, "not_signed_in")
    # A token is not ignored: who sends one does not want to be somebody else.
    refused(await served.http.get(f"{AUTH}/me", headers=bearer(token)), 401, "not_signed_in")


async def test_anybody_may_learn_how_to_sign_in(served: Served, bed: PoolBed) -> None:
    answer = (await served.http.get(AUTH)).json()
    assert answer["enabled"] and answer["hosted"]
    assert (answer["user_pool_id"], answer["client_id"]) == (bed.pool.user_pool_id, bed.pool.client_id)


# Sessions of browsers


async def test_a_browsers_session_from_beginning_to_end(served: Served, browser: httpx.AsyncClient) -> None:
    answer = await sign_in(browser, keep="cookie")
    assert answer.json()["tokens"] is None and "eyJ" not in answer.text
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "path=/" in cookie and "domain" not in cookie
    me = (await browser.get(f"{AUTH}/me")).json()
    assert (me["name"], me["role"], me["groups"]) == ("ann", "admin", ["admin"]) and me["session_ends_at"]
    assert (await browser.delete("/api/v1/tokens/1")).status_code == 404, "an admin got in"
    value = browser.cookies["perdure-session"]
    assert (await browser.post(f"{AUTH}/sign-out")).status_code == 204
    assert not browser.cookies
    browser.cookies.set("perdure-session", value)
    refused(await browser.get(f"{AUTH}/me"), 401, "not_signed_in", "ended")


async def test_signing_in_anew_ends_the_session_before(served: Served, browser: httpx.AsyncClient) -> None:
    await signed_in(browser)
    before = browser.cookies["perdure-session"]
    await signed_in(browser, "vic")
    assert (await browser.get(f"{AUTH}/me")).json()["name"] == "vic"
    async with served.browser() as other:
        other.cookies.set("perdure-session", before)
        refused(await other.get(f"{AUTH}/me"), 401, "not_signed_in")


async def test_odd_letters_are_refused_like_any_others(served: Served) -> None:
    for odd in ("\ud800", "\x00", "a\r\nset-cookie: x=1", "' OR 1=1 --", "\U0001f600" * 60):
        given = json.dumps({"username": odd, "password": odd})
        headers = {"content-type": "application/json"}
        answer = await served.http.post(f"{AUTH}/sign-in", content=given, headers=headers)
        refused(answer, *((422, "invalid_request") if odd == "\ud800" else (401, "not_signed_in")))
        refused(await served.http.get(f"{AUTH}/me", headers=bearer("x.y." + json.dumps(odd))), 401, "not_signed_in")


async def test_by_tls_the_cookie_is_secure_and_this_hosts_alone(served: Served) -> None:
    async with served.browser("https://127.0.0.1:1234") as browser:
        browser.headers["origin"] = "https://127.0.0.1:1234"
        cookie = (await sign_in(browser, keep="cookie")).headers["set-cookie"]
        assert cookie.startswith("__Host-perdure-session=") and "Secure" in cookie
        assert (await browser.get(f"{AUTH}/me")).status_code == 200


async def test_the_database_holds_nothing_that_opens_a_session(served: Served, browser: httpx.AsyncClient) -> None:
    await signed_in(browser)
    value = browser.cookies["perdure-session"]
    with reading(served.app.state.engine) as session:
        row = session.exec(select(SessionRow)).one().model_dump()
        stored = " ".join(map(str, row.values()))
        everything = [
            str(found)
            for table in session.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
            for found in session.execute(text(f'SELECT * FROM "{table}"')).all()
        ]
    assert row["refresh_token"] and value not in stored
    assert not any(value in line or PoolBed.PASSWORD in line or "eyJ" in line for line in everything)
    tampered = value[:-1] + ("A" if value[-1] != "A" else "B")
    for wrong in (tampered, row["id_hash"], row["refresh_token"], "", "x" * 5000):
        browser.cookies.clear()
        browser.cookies.set("perdure-session", wrong)
        refused(await browser.get(f"{AUTH}/me"), 401, "not_signed_in")


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
        {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "none"},
        {"origin": "https://evil.example", "x-perdure-request": "1"},
        {"origin": "null", "x-perdure-request": "1"},
        {"sec-fetch-site": "same-origin", "origin": "https://evil.example"},
        {"origin": SERVER},
        {},
    ],
)
async def test_a_change_by_cookie_needs_proof_that_our_own_page_asks(served: Served, headers: dict[str, str]) -> None:
    async with served.browser() as browser:
        await signed_in(browser)
        for name in BROWSER:
            del browser.headers[name]
        refused_by = await browser.post("/api/v1/tokens", json={"name": "stolen", "role": "admin"}, headers=headers)
        assert refused_by.status_code == 403 and refused_by.json()["error"]["code"] in {"not_allowed", "cross_site"}
        assert (await browser.post(f"{AUTH}/sign-out", headers=headers)).status_code == 403
        assert (await browser.get(f"{AUTH}/me", headers=headers)).status_code == 200, "reading harms nobody"
        own = {"origin": SERVER, "x-perdure-request": "1"}
        assert (await browser.post("/api/v1/tokens", json={"name": "mine"}, headers=own)).status_code == 201


async def test_a_bearer_needs_no_such_proof(served: Served, bed: PoolBed) -> None:
    token = bed.tokens()["IdToken"]
    made = await served.http.post("/api/v1/tokens", json={"name": "ci"}, headers=bearer(token))
    assert made.status_code == 201 and made.json()["created_by"] == "ann"


@pytest.mark.parametrize(
    "columns",
    [
        {"used_at": IDLE_SESSION},
        {"created_at": LONGEST_SESSION},
    ],
)
async def test_a_session_ends_by_itself(
    served: Served, browser: httpx.AsyncClient, columns: dict[str, timedelta]
) -> None:
    await signed_in(browser)
    age(served, **{name: by - timedelta(minutes=5) for name, by in columns.items()})
    assert (await browser.get(f"{AUTH}/me")).status_code == 200
    age(served, **columns)
    refused(await browser.get(f"{AUTH}/me"), 401, "not_signed_in", "ended")


async def test_use_keeps_a_session_alive(served: Served, browser: httpx.AsyncClient) -> None:
    await signed_in(browser)
    for _ in range(3):
        age(served, used_at=IDLE_SESSION - timedelta(minutes=5))
        assert (await browser.get(f"{AUTH}/me")).status_code == 200


async def test_groups_are_looked_up_again(served: Served, bed: PoolBed, browser: httpx.AsyncClient) -> None:
    add_user(bed.admin, bed.pool.user_pool_id, "moe", bed.PASSWORD, ["admin"])
    await signed_in(browser, "moe")
    where = {"UserPoolId": bed.pool.user_pool_id, "Username": "moe"}
    bed.admin.admin_remove_user_from_group(**where, GroupName="admin")
    assert (await browser.get(f"{AUTH}/me")).json()["role"] == "admin", "not looked up yet"
    age(served, checked_at=RECHECK_GROUPS)
    assert (await browser.get(f"{AUTH}/me")).json()["role"] == "viewer"
    bed.admin.admin_add_user_to_group(**where, GroupName="admin")
    assert (await browser.post(f"{AUTH}/refresh")).json()["me"]["role"] == "admin", "at once, when asked to"
    bed.admin.admin_user_global_sign_out(**where)
    age(served, checked_at=RECHECK_GROUPS)
    refused(await browser.get(f"{AUTH}/me"), 401, "not_signed_in", "ended")


async def test_while_cognito_is_away_a_session_lasts_as_long_as_its_token(
    served: Served, bed: PoolBed, browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await signed_in(browser)
    pool = await served.app.state.sign_in.pool(served.app)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    pool.close()
    age(served, checked_at=RECHECK_GROUPS)
    assert (await browser.get(f"{AUTH}/me")).json()["role"] == "admin"
    age(served, trusted_until=timedelta(hours=2))
    refused(await browser.get(f"{AUTH}/me"), 503, "cloud_unavailable")
    monkeypatch.setenv("AWS_ENDPOINT_URL", bed.url)
    pool.close()
    assert (await browser.get(f"{AUTH}/me")).json()["role"] == "admin"


async def test_signing_out_everywhere_ends_every_session(served: Served, bed: PoolBed) -> None:
    async with served.browser() as one, served.browser() as other, served.browser() as somebody:
        await signed_in(one), await signed_in(other), await signed_in(somebody, "vic")
        tokens = bed.tokens()
        assert (await one.post(f"{AUTH}/sign-out", json={"everywhere": True})).status_code == 204
        refused(await other.get(f"{AUTH}/me"), 401, "not_signed_in")
        assert (await somebody.get(f"{AUTH}/me")).status_code == 200
        refused(await one.post(f"{AUTH}/refresh", json={"refresh_token": tokens["RefreshToken"]}), 401, "not_signed_in")


async def test_signing_out_everywhere_after_the_hosted_page(
    served: Served, bed: PoolBed, browser: httpx.AsyncClient
) -> None:
    await browser.get(await go_hosted(browser, bed))
    with reading(served.app.state.engine) as session:
        sealed = session.exec(select(SessionRow)).one().refresh_token
    token = _unsealed(sealed, browser.cookies["perdure-session"])
    assert token is not None
    async with served.browser() as other:
        await signed_in(other)
        assert (await browser.post(f"{AUTH}/sign-out", json={"everywhere": True})).status_code == 204
        refused(await other.get(f"{AUTH}/me"), 401, "not_signed_in")
    refused(await served.http.post(f"{AUTH}/refresh", json={"refresh_token": token}), 401, "not_signed_in")


async def test_a_program_signs_out_everywhere_too(served: Served, bed: PoolBed, browser: httpx.AsyncClient) -> None:
    await signed_in(browser)
    one, other = bed.tokens(), bed.tokens()
    wish = {"refresh_token": one["RefreshToken"], "everywhere": True}
    assert (await served.http.post(f"{AUTH}/sign-out", json=wish)).status_code == 204
    refused(await browser.get(f"{AUTH}/me"), 401, "not_signed_in")
    gone = {"refresh_token": other["RefreshToken"]}
    refused(await served.http.post(f"{AUTH}/refresh", json=gone), 401, "not_signed_in")
    refused(await served.http.post(f"{AUTH}/sign-out", json=wish), 401, "not_signed_in")


async def test_a_session_of_another_pool_is_worth_nothing(
    served: Served, bed: PoolBed, browser: httpx.AsyncClient
) -> None:
    await signed_in(browser)
    other = bed.another_pool()
    served.configure(cognito_of(bed, user_pool_id=other.user_pool_id, client_id=other.client_id))
    refused(await browser.get(f"{AUTH}/me"), 401, "not_signed_in", "ended")


# The hosted page


async def go_hosted(browser: httpx.AsyncClient, bed: PoolBed, next_path: str = "/docs") -> str:
    """Where the hosted page sends the browser after ann signed in there."""
    answer = await browser.get(f"{AUTH}/hosted", params={"next": next_path})
    assert answer.status_code == 303, answer.text
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"] and asked["redirect_uri"] == [f"{SERVER}{AUTH}/callback"]
    back = bed.fill_in(answer.headers["location"])
    assert back.status_code == 302, back.text
    return back.headers["location"]


async def test_by_the_hosted_page(bed: PoolBed, browser: httpx.AsyncClient) -> None:
    back = await go_hosted(browser, bed)
    answer = await browser.get(back)
    assert (answer.status_code, answer.headers["location"]) == (303, "/docs")
    assert (await browser.get(f"{AUTH}/me")).json()["role"] == "admin"
    refused(await browser.get(back), 401, "not_signed_in", "finished already")
    lines = (await browser.get("/api/v1/audit")).json()["items"]
    came_back = [(line["outcome"], line["who"]) for line in lines if line["action"] == f"GET {AUTH}/callback"]
    assert came_back == [(401, "ann"), (303, "ann")]


async def test_another_browser_cannot_finish_a_sign_in(served: Served, bed: PoolBed) -> None:
    async with served.browser() as mine, served.browser() as theirs:
        back = await go_hosted(mine, bed)
        refused(await theirs.get(back), 401, "not_signed_in", "another browser")
        refused(await mine.get(back), 401, "not_signed_in")  # the state was used
        back = await go_hosted(mine, bed)
        await theirs.get(f"{AUTH}/hosted")
        refused(await theirs.get(back), 401, "not_signed_in", "another browser")
        assert "perdure-session" not in mine.cookies and "perdure-session" not in theirs.cookies


async def test_a_code_of_another_sign_in_does_not_fit(bed: PoolBed, browser: httpx.AsyncClient) -> None:
    one, two = await go_hosted(browser, bed), await go_hosted(browser, bed)
    code = re.search("code=([^&]+)", one)
    assert code
    swapped = re.sub("code=[^&]+", f"code={code[1]}", two)
    refused(await browser.get(swapped), 401, "not_signed_in", "does not take this code")
    refused(await browser.get(one), 401, "not_signed_in")  # the code was spent on the wrong verifier


async def test_the_nonce_binds_the_token_to_this_sign_in(
    served: Served, bed: PoolBed, browser: httpx.AsyncClient
) -> None:
    back = await go_hosted(browser, bed)
    with writing(served.app.state.engine) as session:
        session.exec(select(HostedWayRow)).one().nonce = "another"
    refused(await browser.get(back), 401, "not_signed_in", "another sign-in")


async def test_a_wrong_verifier_a_late_return_and_a_made_up_state(
    served: Served, bed: PoolBed, browser: httpx.AsyncClient
) -> None:
    back = await go_hosted(browser, bed)
    with writing(served.app.state.engine) as session:
        session.exec(select(HostedWayRow)).one().verifier = "w" * 64
    refused(await browser.get(back), 401, "not_signed_in", "does not take this code")
    back = await go_hosted(browser, bed)
    with writing(served.app.state.engine) as session:
        session.exec(select(HostedWayRow)).one().created_at = datetime.now(UTC) - LONGEST_WAY
    refused(await browser.get(back), 401, "not_signed_in", "too long")
    back = re.sub("state=[^&]+", "state=made-up", await go_hosted(browser, bed))
    refused(await browser.get(back), 401, "not_signed_in")
    refused(await browser.get(f"{AUTH}/callback?code=x"), 422, "invalid_request")
    back = await go_hosted(browser, bed)
    denied = re.sub("code=[^&]+", "error=access_denied&error_description=<script>", back)
    refused(await browser.get(denied), 401, "not_signed_in", "did not let you in")


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "/%0d%0aset-cookie:x=1\r\nset-cookie: x=1",
        "javascript:alert(1)",
        "/api/v1/auth/sign-out",
        "",
    ],
)
async def test_afterwards_one_is_on_this_server(bed: PoolBed, browser: httpx.AsyncClient, path: str) -> None:
    answer = await browser.get(await go_hosted(browser, bed, path))
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


async def test_people_see_a_page_where_programs_see_json(bed: PoolBed, browser: httpx.AsyncClient) -> None:
    back = re.sub("state=[^&]+", "state=made-up", await go_hosted(browser, bed))
    answer = await browser.get(back, headers={"accept": "text/html,*/*;q=0.8"})
    assert answer.status_code == 303 and answer.headers["location"] == "/sign-in"
    told = SimpleCookie(answer.headers["set-cookie"])["perdure-sign-in-problem"]
    assert "begin again" in unquote(told.value) and told["path"] == "/sign-in", "the console's page says it"


# Pages


async def test_people_are_sent_to_the_sign_in_page_and_back(served: Served, browser: httpx.AsyncClient) -> None:
    answer = await browser.get("/docs")
    assert answer.status_code == 303 and answer.headers["location"].startswith("/sign-in?next=%2F")
    await signed_in(browser)
    assert (await browser.get("/docs")).status_code == 200
    assert (await served.http.get("/docs")).status_code == 303


async def test_who_signed_in_and_who_failed_is_in_the_audit_log_without_passwords(
    served: Served, browser: httpx.AsyncClient
) -> None:
    await sign_in(served.http, "mallory", "Sesame-123")
    await signed_in(browser)
    answer = await browser.get("/api/v1/audit")
    lines = [line for line in answer.json()["items"] if line["action"] == "POST /api/v1/auth/sign-in"]
    assert [(line["outcome"], line["who"], line["detail"]["user"]) for line in lines] == [
        (200, "ann", "ann"),
        (401, "", "mallory"),
    ]
    assert "Sesame" not in answer.text and PoolBed.PASSWORD not in answer.text


# Turned on and off

COGNITO = "/api/v1/security/cognito"


def form(bed: PoolBed, **changes: Any) -> dict[str, Any]:
    """MMBatch's."""
    pool = bed.pool
    given = {
        "region": pool.region,
        "userPoolID": pool.user_pool_id,
        "clientID": pool.client_id,
        "identityPoolID": "us-east-1:3f2504e0-4f89-11d3-9a0c-0305e82c3301",
        "adminGroups": ["admin"],
        "accessKey": "AKIA-NEVER-KEPT",
        "secretKey": "secret-never-kept",
        "token": "token-never-kept",
    }
    return given | changes


@pytest.fixture
def off(served: Served) -> Served:
    """Sign-in is off: whoever asks over loopback is admin."""
    served.configure(CognitoConfiguration())
    served.forget_sign_in()
    return served


async def test_turned_on_with_proof_and_off_again(off: Served, bed: PoolBed) -> None:
    assert (await off.http.get(COGNITO)).json()["enabled"] is False
    refused(await off.http.put(COGNITO, json=form(bed)), 409, "lock_out", "idToken")
    for token in (
        bed.tokens("vic")["IdToken"],
        bed.tokens()["AccessToken"],
        bed.tokens(pool=bed.another_pool())["IdToken"],
    ):
        refused(await off.http.put(COGNITO, json=form(bed, idToken=token)), 409, "lock_out")
    assert (await off.http.get(COGNITO)).json()["enabled"] is False
    token = bed.tokens()["IdToken"]
    turned_on = await off.http.put(COGNITO, json=form(bed, idToken=token, adminGroups="admin,ops"))
    assert turned_on.status_code == 200, turned_on.text
    assert "no AWS keys are needed" in turned_on.text and "never-kept" not in turned_on.text
    off.forget_sign_in()
    refused(await off.http.get(COGNITO), 401, "not_signed_in")
    shown = (await off.http.get(COGNITO, headers=bearer(token))).json()
    assert (shown["enabled"], shown["adminGroups"], shown["userPoolID"]) == (
        True,
        ["admin", "ops"],
        bed.pool.user_pool_id,
    )
    with reading(off.app.state.engine) as session:
        rows = [
            str(row)
            for table in session.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
            for row in session.execute(text(f'SELECT * FROM "{table}"')).all()
        ]
    assert not any("never-kept" in row or "NEVER-KEPT" in row for row in rows)
    refused(await off.http.delete(COGNITO, headers=bearer(bed.tokens("vic")["IdToken"])), 403, "not_allowed")
    assert (await off.http.delete(COGNITO, headers=bearer(token))).json()["enabled"] is False
    off.forget_sign_in()
    assert (await off.http.get(f"{AUTH}/me")).json()["via"] == "loopback"


async def test_an_admin_token_is_proof_enough_and_keeps_working(off: Served, bed: PoolBed) -> None:
    made = await off.http.post("/api/v1/tokens", json={"name": "ci", "role": "admin", "expires_in_seconds": "1h"})
    secret = made.json()["token"]
    assert (await off.http.put(COGNITO, json=form(bed))).status_code == 200
    off.forget_sign_in()
    assert (await off.http.get(f"{AUTH}/me", headers=bearer(secret))).json()["via"] == "token"
    refused(await off.http.get(f"{AUTH}/me"), 401, "not_signed_in")


async def test_every_way_of_changing_the_configuration_asks_the_guard(off: Served, bed: PoolBed) -> None:
    section = cognito_of(bed).model_dump(mode="json")
    ways = [
        ("PATCH", "/api/v1/configuration/cognito", section),
        ("PUT", "/api/v1/configuration/cognito", section),
        ("PATCH", "/api/v1/configuration", {"cognito": section}),
        ("PUT", "/api/v1/configKV", {"kvMap": keys_of(section)}),
    ]
    for method, path, body in ways:
        refused(await off.http.request(method, path, json=body), 409, "lock_out")
    off.forget_sign_in()
    assert (await off.http.get(f"{AUTH}/me")).json()["via"] == "loopback", "nothing was changed"


def keys_of(section: dict[str, Any]) -> dict[str, str]:
    return {
        "security.cognito.enabled": "true",
        "security.cognito.userPoolID": section["user_pool_id"],
        "security.cognito.clientID": section["client_id"],
        "security.cognito.region": section["region"],
    }


async def test_a_pool_whose_keys_cannot_be_had_is_not_turned_on(
    off: Served, bed: PoolBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await off.http.post("/api/v1/tokens", json={"name": "ci", "role": "admin"})
    assert made.status_code == 201
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    refused(await off.http.put(COGNITO, json=form(bed)), 503, "cloud_unavailable")
    assert (await off.http.get(COGNITO)).json()["enabled"] is False


async def test_on_an_address_that_others_reach_it_is_not_turned_off_without_an_admin_token(
    served: Served, bed: PoolBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = bearer(bed.tokens()["IdToken"])
    monkeypatch.setattr(served.app.state.settings, "api_host", "0.0.0.0")
    refused(await served.http.delete(COGNITO, headers=admin), 409, "lock_out", "0.0.0.0")
    off = {"enabled": False}
    refused(await served.http.patch("/api/v1/configuration/cognito", json=off, headers=admin), 409, "lock_out")
    made = await served.http.post("/api/v1/tokens", json={"name": "ci", "role": "admin"}, headers=admin)
    assert made.status_code == 201
    assert (await served.http.delete(COGNITO, headers=admin)).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"region": "Mars"},
        {"userPoolID": "../../etc"},
        {"clientID": "a b"},
        {"adminGroups": []},
        {"adminGroups": [7]},
        {"domain": "javascript:alert(1)"},
        {"secret": "x"},
        {"accessKey": 7},
    ],
)
async def test_a_form_that_cannot_be_is_named(off: Served, bed: PoolBed, changes: dict[str, Any]) -> None:
    answer = await off.http.put(COGNITO, json=form(bed, **changes))
    refused(answer, 422, "invalid_request", *(changes.keys() - {"adminGroups"}))
    assert "never-kept" not in answer.text


# Before it is changed

TRIAL = "/api/v1/configuration/cognito/try"
CHECK = "/api/v1/configuration/check"


def wanted(bed: PoolBed, **changes: Any) -> dict[str, Any]:
    """The section's fields as a form sends them."""
    return cognito_of(bed, **changes).model_dump(mode="json", exclude={"identity_pool_id"})


async def test_a_trial_as_admin_is_proof_enough_to_turn_it_on(off: Served, bed: PoolBed) -> None:
    section = wanted(bed)
    found = (await off.http.post(CHECK, json={"cognito": section})).json()
    assert [one["field"] for one in found["problems"]] == ["cognito.enabled"]
    given = {"cognito": section, "username": "ann", "secret": PoolBed.PASSWORD}
    tried = await off.http.post(TRIAL, json=given)
    assert tried.json() == {
        "problem": "", "challenge": None, "username": "ann", "groups": ["admin"], "role": "admin", "proven": True,
    }  # fmt: skip
    assert "set-cookie" not in tried.headers, "nobody is signed in by it"
    other = wanted(bed, client_id=bed.another_pool().client_id)
    assert (await off.http.post(CHECK, json={"cognito": other})).json()["problems"], "proven is what was tried"
    assert (await off.http.post(CHECK, json={"cognito": section})).json()["problems"] == []
    changed = await off.http.patch("/api/v1/configuration/cognito", json=section)
    assert changed.status_code == 200, changed.text
    off.forget_sign_in()
    refused(await off.http.get(COGNITO), 401, "not_signed_in")
    assert bed.PASSWORD not in changed.text


async def test_a_trial_that_does_not_work_says_why_and_proves_nothing(off: Served, bed: PoolBed) -> None:
    section = wanted(bed, viewer_groups=["viewer"])
    for username, secret, role, problem in (
        ("ann", "Wrong-Password-1", None, "password is wrong"),
        ("vic", PoolBed.PASSWORD, "viewer", ""),
        ("noe", PoolBed.PASSWORD, None, ""),
    ):
        tried = await off.http.post(TRIAL, json={"cognito": section, "username": username, "secret": secret})
        assert tried.status_code == 200 and tried.json()["role"] == role and not tried.json()["proven"]
        assert problem in tried.json()["problem"] and bool(problem) == bool(tried.json()["problem"])
    assert (await off.http.post(CHECK, json={"cognito": section})).json()["problems"]
    incomplete = {"cognito": {"region": "us-east-1"}, "username": "ann", "secret": "x"}
    refused(await off.http.post(TRIAL, json=incomplete), 422, "invalid_request", "user_pool_id")


async def test_trials_count_as_tries(off: Served, bed: PoolBed) -> None:
    given = {"cognito": wanted(bed), "username": "ann", "secret": "Wrong-Password-1"}
    for _ in range(10):
        assert (await off.http.post(TRIAL, json=given)).status_code == 200
    refused(await off.http.post(TRIAL, json=given), 429, "too_many_tries")


async def test_a_trial_answers_challenges(off: Served, bed: PoolBed) -> None:
    name = f"new-{secrets.token_hex(4)}"
    bed.admin.admin_create_user(UserPoolId=bed.pool.user_pool_id, Username=name, TemporaryPassword="Temporary-1")
    given = {"cognito": wanted(bed), "username": name}
    asked = (await off.http.post(TRIAL, json=given | {"secret": "Temporary-1"})).json()["challenge"]
    assert asked["challenge"] == "NEW_PASSWORD_REQUIRED"
    answer = {key: asked[key] for key in ("challenge", "challenge_session", "username")}
    done = await off.http.post(TRIAL, json={"cognito": given["cognito"], "secret": "Long-Enough-2"} | answer)
    assert (done.json()["username"], done.json()["role"], done.json()["proven"]) == (name, "viewer", False)


# A browser with an API token


async def a_token(served: Served, bed: PoolBed, **wish: Any) -> dict[str, Any]:
    admin = bearer(bed.tokens()["IdToken"])
    made = await served.http.post("/api/v1/tokens", json={"name": "first", "role": "admin"} | wish, headers=admin)
    return dict(made.json())


async def test_a_browser_signs_in_by_api_token_and_out_again(
    served: Served, bed: PoolBed, browser: httpx.AsyncClient
) -> None:
    made = await a_token(served, bed)
    answer = await browser.post(f"{AUTH}/token", json={"token": f" {made['token']}\n"})
    assert answer.json()["me"]["via"] == "token" and made["token"] not in answer.text
    cookie = answer.headers.get_list("set-cookie")[-1]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie
    assert (await browser.get(f"{AUTH}/me")).json()["name"] == "first (token 1)"
    change = {"keep": 3}
    assert (await browser.patch("/api/v1/configuration/checkpoint", json=change)).status_code == 200
    elsewhere = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
    forged = await browser.patch("/api/v1/configuration/checkpoint", json=change, headers=elsewhere)
    refused(forged, 403, "cross_site")
    assert (await browser.post(f"{AUTH}/sign-out")).status_code == 204
    refused(await browser.get(f"{AUTH}/me"), 401, "not_signed_in")


async def test_a_browser_with_a_revoked_token_is_a_stranger(
    served: Served, bed: PoolBed, browser: httpx.AsyncClient
) -> None:
    made = await a_token(served, bed, role="viewer")
    await browser.post(f"{AUTH}/token", json={"token": made["token"]})
    assert (await browser.get("/api/v1/jobs")).status_code == 200
    await served.http.delete(f"/api/v1/tokens/{made['number']}", headers=bearer(bed.tokens()["IdToken"]))
    refused(await browser.get("/api/v1/jobs"), 401, "not_signed_in")
    refused(await browser.post(f"{AUTH}/token", json={"token": made["token"]}), 401, "not_signed_in", "revoked")


async def test_what_is_no_token_for_the_console_is_refused(
    served: Served, bed: PoolBed, browser: httpx.AsyncClient
) -> None:
    bound = await a_token(served, bed, role="viewer", areas=["jobs"])
    refused(await browser.post(f"{AUTH}/token", json={"token": bound["token"]}), 403, "not_allowed", "without areas")
    for wrong in ("x", "prd_" + "A" * 40):
        refused(await browser.post(f"{AUTH}/token", json={"token": wrong}), 401, "not_signed_in")
    assert not browser.cookies


async def test_signing_in_by_password_forgets_the_token(
    served: Served, bed: PoolBed, browser: httpx.AsyncClient
) -> None:
    made = await a_token(served, bed, role="viewer")
    await browser.post(f"{AUTH}/token", json={"token": made["token"]})
    await signed_in(browser)
    assert (await browser.get(f"{AUTH}/me")).json()["name"] == "ann"
    assert not any("token" in name for name in browser.cookies)
