"""Signing in, in a real browser at a real user pool of localcloud: each way in, each refusal, what comes after."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import delete, update

from localcloud.stack.sign_in import add_client, add_user
from perdure.domain.access import USUAL_LIFE, Role
from perdure.domain.configuration import CheckpointConfiguration, CognitoConfiguration, SystemConfiguration
from perdure.domain.sign_in import LONGEST_SESSION
from perdure.records.access.tokens import create_token
from perdure.records.schema.database import reading, writing
from perdure.records.schema.sign_in_tables import SessionRow
from perdure.records.settings.configuration import current_configuration
from tests.browser.conftest import fits, violations
from tests.browser.network import Network
from tests.browser.serving import Serving, serving
from tests.integration.pool_bed import PoolBed, pool_bed
from tests.integration.test_local_pool import authenticator_code

REFUSED = "status of 401"
"""What a browser notes when a password is wrong, or a session has ended."""


@pytest.fixture(scope="module")
def bed(network: Network) -> Iterator[PoolBed]:
    """At the same address for the server and for the browser, which goes to the hosted page."""
    with ExitStack() as stack:
        bed = stack.enter_context(pool_bed())
        port = urlsplit(bed.url).port
        assert port is not None
        stack.enter_context(network.forwarded("127.0.0.1", port, near=port))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("AWS_ENDPOINT_URL", bed.url)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield bed


@pytest.fixture(scope="module")
def started(
    tmp_path_factory: pytest.TempPathFactory, bed: PoolBed, network: Network, address: str
) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("people"), network) as server:
        yield server


@pytest.fixture(scope="module")
def cognito(started: Serving, bed: PoolBed) -> CognitoConfiguration:
    """The pool, with an app client that comes back to this server."""
    pool = bed.pool
    return CognitoConfiguration(
        enabled=True,
        region=pool.region,
        user_pool_id=pool.user_pool_id,
        client_id=add_client(bed.admin, pool.user_pool_id, [started.url]),
        domain=pool.domain,
    )


@pytest.fixture
def server(started: Serving, cognito: CognitoConfiguration) -> Serving:
    """Asks everybody to sign in; nobody has."""
    with writing(started.engine) as session:
        session.execute(delete(SessionRow))
    started.configure(SystemConfiguration(cognito=cognito))
    started.forget()
    return started


def with_second_factor(bed: PoolBed, server: Serving, name: str) -> str:
    """The secret of an authenticator app that is asked for whenever `name` signs in."""
    with reading(server.engine) as session:
        client_id = current_configuration(session).cognito.client_id
    access = bed.tokens(name, client_id=client_id)["AccessToken"]
    secret = bed.unsigned.associate_software_token(AccessToken=access)["SecretCode"]
    bed.unsigned.verify_software_token(AccessToken=access, UserCode=authenticator_code(secret))
    preference = {"Enabled": True, "PreferredMfa": True}
    bed.unsigned.set_user_mfa_preference(AccessToken=access, SoftwareTokenMfaSettings=preference)  # type: ignore[arg-type]
    return secret


def sign_in(page: Page, username: str, password: str = PoolBed.PASSWORD) -> None:
    page.get_by_label("User name").fill(username)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Sign in", exact=True).click()


def signed_in_as(page: Page, name: str) -> None:
    expect(page.get_by_role("button", name=name, exact=True)).to_be_visible()


def test_a_deep_link_survives_the_sign_in(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/nodes?q=m6i&sort=-ended_at")
    expect(page.get_by_role("heading", name="Sign in to Perdure")).to_be_visible()
    sign_in(page, "ann")
    signed_in_as(page, "ann")
    expect(page.get_by_role("button", name=re.compile("Remove.*m6i"))).to_be_visible()
    expect(page).to_have_url(f"{server.url}/nodes?q=m6i&sort=-ended_at")
    page.go_back()
    expect(page.get_by_role("heading", name="Sign in to Perdure")).to_be_hidden()


@pytest.mark.expects(REFUSED)
def test_a_wrong_password_says_so_and_one_may_try_again(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/sign-in")
    sign_in(page, "ann", "Wrong-Password-1")
    expect(page.get_by_role("alert")).to_contain_text("user name or the password is wrong")
    sign_in(page, "ann")
    signed_in_as(page, "ann")
    expect(page).to_have_url(f"{server.url}/")


@pytest.mark.expects("status of 422")
def test_a_first_sign_in_asks_for_a_new_password(page: Page, server: Serving, bed: PoolBed) -> None:
    name = f"new-{secrets.token_hex(3)}"
    add_user(bed.admin, bed.pool.user_pool_id, name, "Temporary-1", ["viewer"], temporary=True)
    page.goto(f"{server.url}/configuration?tab=log")
    sign_in(page, name, "Temporary-1")
    expect(page.get_by_text("This is your first sign-in")).to_be_visible()
    page.get_by_label("New password", exact=True).fill("Long-Enough-2")
    page.get_by_label("New password, once more").fill("Long-Enough-3")
    expect(page.get_by_text("The two are not the same")).to_be_visible()
    page.get_by_label("New password, once more").fill("Long-Enough-2")
    page.get_by_role("button", name="Sign in", exact=True).click()
    signed_in_as(page, name)
    expect(page).to_have_url(f"{server.url}/configuration?tab=log")


@pytest.mark.expects("favicon.ico")  # the hosted page is none of ours
def test_the_hosted_page_and_back_to_where_one_was(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/volumes?whose=finished")
    page.get_by_role("link", name="Sign in with Cognito").click()
    page.wait_for_url(re.compile("/_hosted/"))
    page.locator("input[name=username]").fill("ann")
    page.locator("input[name=password]").fill(PoolBed.PASSWORD)
    page.locator("button").first.click()
    signed_in_as(page, "ann")
    expect(page).to_have_url(f"{server.url}/volumes?whose=finished")


def test_a_way_back_from_the_hosted_page_that_went_wrong_is_explained(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/api/v1/auth/callback?state=made-up&code=x")
    expect(page.get_by_text("The sign-in did not work")).to_be_visible()
    expect(page.get_by_text("not under way here")).to_be_visible()
    page.reload()
    expect(page.get_by_role("button", name="Sign in", exact=True)).to_be_visible()
    expect(page.get_by_text("not under way here")).to_be_hidden()


def test_a_viewer_sees_no_button_that_would_be_refused(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/configuration")
    sign_in(page, "vic")
    signed_in_as(page, "vic")
    expect(page.get_by_text("15 min")).to_be_visible()
    for role in ("textbox", "checkbox"):
        expect(page.get_by_role(role)).to_have_count(0)
    expect(page.get_by_role("button", name="Review changes")).to_have_count(0)
    navigation = page.get_by_role("navigation", name="Side navigation")
    expect(navigation.get_by_role("link", name="Volumes")).to_be_visible()
    for name in ("API tokens", "Audit log"):
        expect(navigation.get_by_role("link", name=name)).to_have_count(0)
    page.get_by_role("tab", name="History").click()
    expect(page.get_by_text("version").first).to_be_visible()


def test_a_viewer_at_an_administrators_address_is_told(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/audit")
    sign_in(page, "vic")
    expect(page.get_by_text("This page is for administrators")).to_be_visible()


@pytest.mark.expects(REFUSED)
def test_a_session_that_ends_costs_nothing_that_was_typed(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/configuration")
    sign_in(page, "ann")
    with page.expect_response(re.compile("/configuration/check")):  # else it would be the first to miss the session
        page.get_by_label("Checkpoints per job").fill("9")
    expect(page.get_by_role("button", name="Review changes")).to_be_enabled()
    with writing(server.engine) as session:
        session.execute(delete(SessionRow))
    page.get_by_label("Checkpoints per job").fill("8")
    expect(page.get_by_text("Your session has ended")).to_be_visible()
    sign_in(page, "ann")
    expect(page.get_by_label("Checkpoints per job")).to_have_value("8")
    page.get_by_role("button", name="Review changes").click()
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_text("Checkpoint: saved")).to_be_visible()
    with reading(server.engine) as session:
        assert current_configuration(session).checkpoint == CheckpointConfiguration(keep=8)


def test_a_session_that_ends_soon_says_so(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/volumes")
    sign_in(page, "ann")
    signed_in_as(page, "ann")
    with writing(server.engine) as session:
        begun = datetime.now(UTC) - LONGEST_SESSION + timedelta(minutes=5)
        session.execute(update(SessionRow).values(created_at=begun))
    page.reload()
    expect(page.get_by_text(re.compile("Your session ends in [1-5] min"))).to_be_visible()


def test_signing_out(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/volumes")
    sign_in(page, "ann")
    for asked in ("No job volume exists now", "No volume and no snapshot is without an owner"):
        expect(page.get_by_text(asked)).to_be_visible()  # what is asked for later would be refused
    page.get_by_role("button", name="ann", exact=True).click()
    page.get_by_role("menuitem", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in to Perdure")).to_be_visible()
    page.goto(f"{server.url}/volumes")
    expect(page.get_by_role("heading", name="Sign in to Perdure")).to_be_visible()


@pytest.mark.expects(REFUSED)
def test_where_there_is_no_user_pool_one_signs_in_by_api_token(page: Page, network: Network, tmp_path: Path) -> None:
    with serving(tmp_path, network, require_sign_in=True) as server:
        with writing(server.engine) as session:
            _, secret = create_token(
                session, name="first", role=Role.ADMIN, areas=[], at=datetime.now(UTC), by="test", life=USUAL_LIFE
            )
        page.goto(f"{server.url}/tokens")
        page.get_by_label("API token").fill("prd_wrong")
        page.get_by_role("button", name="Sign in", exact=True).click()
        expect(page.get_by_text("There is no such API token here")).to_be_visible()
        page.get_by_label("API token").fill(secret)
        page.get_by_role("button", name="Sign in", exact=True).click()
        signed_in_as(page, "first (token 1)")
        expect(page.get_by_role("row", name="first")).to_be_visible()


def test_a_sign_in_is_tried_before_it_is_turned_on(page: Page, started: Serving, cognito: CognitoConfiguration) -> None:
    started.configure(SystemConfiguration())
    started.forget()
    page.goto(f"{started.url}/configuration?tab=cognito")
    for label, value in (
        ("Region", cognito.region),
        ("User pool id", cognito.user_pool_id),
        ("App client id", cognito.client_id),
    ):
        page.get_by_label(label).fill(value)
    page.get_by_role("checkbox", name="Sign-in with Cognito").click()
    expect(page.get_by_text("Nobody has shown that an admin can sign in").first).to_be_visible()
    expect(page.get_by_role("button", name="Review changes")).to_be_disabled()
    page.get_by_role("button", name="Try a sign-in").click()
    for username, password, said in (
        ("ann", "Wrong-Password-1", "user name or the password is wrong"),
        ("vic", PoolBed.PASSWORD, "vic gets in as viewer"),
        ("ann", PoolBed.PASSWORD, "ann gets in as administrator"),
    ):
        page.get_by_label("User name").fill(username)
        page.get_by_label("Password", exact=True).fill(password)
        page.get_by_role("button", name="Try", exact=True).click()
        expect(page.get_by_text(said)).to_be_visible()
    page.get_by_role("button", name="Review changes").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("You are asked to sign in as soon as this is saved")).to_be_visible()
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="Sign in to Perdure")).to_be_visible()
    sign_in(page, "ann")
    signed_in_as(page, "ann")
    expect(page.get_by_role("checkbox", name="Sign-in with Cognito")).to_be_checked()


def test_by_keyboard_alone(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/volumes")
    expect(page.get_by_label("User name")).to_be_focused()
    page.keyboard.type("ann")
    page.keyboard.press("Tab")
    page.keyboard.type(PoolBed.PASSWORD)
    page.keyboard.press("Enter")
    signed_in_as(page, "ann")


def test_the_sign_in_page_is_accessible_in_both_themes_and_fits_a_telephone(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/sign-in")
    expect(page.get_by_role("button", name="Sign in", exact=True)).to_be_visible()
    assert not (found := violations(page)), "\n".join(found)
    page.emulate_media(color_scheme="dark")
    expect(page.locator("body.awsui-dark-mode")).to_be_visible()
    assert not (found := violations(page, "color-contrast")), "\n".join(found)
    page.set_viewport_size({"width": 390, "height": 800})
    fits(page, 390)


def test_a_second_factor(page: Page, server: Serving, bed: PoolBed) -> None:
    name = f"mfa-{secrets.token_hex(3)}"
    add_user(bed.admin, bed.pool.user_pool_id, name, PoolBed.PASSWORD, ["admin"])
    secret = with_second_factor(bed, server, name)
    page.goto(f"{server.url}/volumes")
    sign_in(page, name)
    expect(page.get_by_text("authenticator app")).to_be_visible()
    page.get_by_label("Code").fill(authenticator_code(secret))
    page.get_by_role("button", name="Sign in", exact=True).click()
    signed_in_as(page, name)
