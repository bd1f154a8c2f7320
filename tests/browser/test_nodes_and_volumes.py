"""Worker nodes, volumes, tokens and the audit log in a real browser; and a server that goes away under an open page."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Locator, Page, expect

from perdure.domain.jobs import JobState
from perdure.domain.nodes import Node, NodeState
from perdure.records.nodes.nodes import record_node
from perdure.records.schema.database import writing
from tests.browser.conftest import NewPage, look_at, violations
from tests.browser.network import Network
from tests.browser.seeded import ENDED, FAILED, LIVE, NOTICED, RUNNING, fill
from tests.browser.serving import Serving, serving
from tests.browser.stories import Story, record

AWAY = "net::ERR_"
"""What a browser notes of every request while a server is away."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, network: Network, address: str) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("nodes"), network) as server:
        fill(server)
        yield server


def test_nodes_live_and_ended(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/nodes")
    table = page.get_by_role("table", name="Worker nodes")
    expect(table.get_by_role("row")).to_have_count(4)
    expect(table.get_by_role("row", name=NOTICED)).to_contain_text("Being reclaimed")
    expect(table.get_by_role("row", name=ENDED)).to_contain_text("Reclaimed by AWS")
    page.get_by_test_id("ended").click()
    expect(table.get_by_role("row")).to_have_count(2)
    page.get_by_test_id("live").click()
    find(page, "Zone = us-east-1b")
    expect(table.get_by_role("row")).to_have_count(2)
    expect(table.get_by_role("row", name=LIVE)).to_be_visible()
    expect(page).to_have_url(re.compile("zone=.*us-east-1b"))
    page.reload()
    expect(table.get_by_role("row")).to_have_count(2)
    find(page, "Instance type = t3.nano")
    expect(page.get_by_text("No node is like this")).to_be_visible()
    page.get_by_role("button", name="Clear").click()
    expect(table.get_by_role("row", name=NOTICED)).to_be_visible()
    find(page, "mars")
    expect(page.get_by_text("No node is like this")).to_be_visible()


def find(page: Page, words: str) -> None:
    page.get_by_label("Find nodes").fill(words)
    page.keyboard.press("Enter")


def downloaded(page: Page, item: str) -> list[dict[str, str]]:
    page.get_by_role("button", name="Download CSV").click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name=item).click()
    assert download.value.suggested_filename == "perdure-nodes.csv"
    return list(csv.DictReader(io.StringIO(download.value.path().read_text("utf-8-sig"))))


def test_the_csv_of_finished_nodes_filtered_and_all(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/nodes?q={LIVE}")
    expect(page.get_by_role("row", name=LIVE)).to_be_visible()
    assert downloaded(page, f"Finished nodes of this list: {LIVE}") == [], "it is not finished"
    (line,) = downloaded(page, "All finished nodes")
    assert (line["instanceId"], line["endedBy"], line["jobsRun"]) == (ENDED, "aws", "2")
    assert {line["instanceId"] for line in downloaded(page, "All nodes")} >= {ENDED, LIVE, NOTICED}


def test_a_node_with_its_notice_and_jobs(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/nodes")
    page.get_by_role("link", name=NOTICED).click()
    expect(page.get_by_text("AWS takes this instance back")).to_be_visible()
    page.get_by_role("link", name="failed-alignment").click()
    page.wait_for_url(f"**/jobs/{FAILED}")
    page.go_back()
    expect(page.get_by_role("heading", name=NOTICED)).to_be_visible()
    page.goto(f"{server.url}/nodes/{ENDED}")
    expect(page.get_by_role("row", name="running-alignment")).to_contain_text("handed over")


@pytest.mark.expects("status of 404")
def test_a_node_that_nobody_knows(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/nodes/i-nowhere")
    expect(page.get_by_text("Not found")).to_be_visible()


def test_a_node_that_appears_is_seen_without_a_new_load(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/nodes?q=i-0new")
    expect(page.get_by_text("No node is like this")).to_be_visible()
    now = datetime.now(UTC)
    with writing(server.engine) as session:
        record_node(session, Node(instance_id="i-0new", zone="us-east-1a", first_seen_at=now, changed_at=now))
    expect(page.get_by_role("row", name="i-0new")).to_be_visible()
    gone = Node(instance_id="i-0new", zone="us-east-1a", state=NodeState.GONE, first_seen_at=now, ended_by="user")
    with writing(server.engine) as session:
        record_node(session, gone.model_copy(update={"changed_at": datetime.now(UTC), "ended_at": datetime.now(UTC)}))
    expect(page.get_by_role("row", name="i-0new")).to_contain_text("Ended")


def test_volumes_whose_they_are_and_what_they_cost(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/volumes")
    table = page.get_by_role("table", name="Volumes", exact=True)
    expect(table.get_by_role("row")).to_have_count(3)
    orphan = page.get_by_role("row").filter(has_text="it does not bear this installation's tag")
    expect(orphan).to_contain_text("no record knows its job")
    running = table.get_by_role("row", name="running-alignment")
    expect(running).to_contain_text("$8.00")
    expect(running.get_by_role("link", name=LIVE)).to_be_visible()
    expect(page.get_by_text("$16.00", exact=True)).to_be_visible()
    page.get_by_role("button", name="Of finished jobs").click()
    expect(table.get_by_role("row")).to_have_count(2)
    table.get_by_role("button", name=re.compile("^Delete now: vol-")).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("the job cannot be resumed any more")).to_be_visible()
    assert not (found := violations(page)), "\n".join(found)
    dialog.get_by_role("button", name="Cancel").click()
    table.get_by_role("link", name="failed-alignment").click()
    page.wait_for_url(f"**/jobs/{FAILED}")


def opens(page: Page, token: str) -> bool:
    """Does the token open anything?"""
    ask = "token => fetch('/api/v1/auth/me', {headers: {Authorization: `Bearer ${token}`}}).then(one => one.ok)"
    return bool(page.evaluate(ask, token))


@pytest.mark.expects("status of 401")
def test_a_token_is_made_shown_once_and_revoked(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/tokens")
    page.get_by_role("button", name="Make a token").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("What it is for").fill("ci pipeline")
    dialog.get_by_role("radio", name="Administrator").click()
    dialog.get_by_role("button", name="Make it").click()
    secret = dialog.get_by_text("prd_")
    expect(secret).to_be_visible()
    token = secret.inner_text().strip()
    assert opens(page, token)
    dialog.get_by_role("button", name="I have copied it").click()
    expect(page.get_by_text(token)).to_have_count(0)
    page.get_by_role("button", name="Revoke ci pipeline").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("opens nothing any more")).to_be_visible()
    expect(page.get_by_role("row", name="ci pipeline")).to_contain_text("Revoked")
    assert not opens(page, token)


@pytest.mark.expects("status of 422")
def test_a_token_that_cannot_be_says_why(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/tokens")
    page.get_by_role("button", name="Make a token").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("What it is for").fill("!?")
    dialog.get_by_label("Days until it ends").fill("9999")
    dialog.get_by_role("button", name="Make it").click()
    expect(dialog.get_by_text("1 to 366 days.")).to_be_visible()
    expect(dialog.get_by_text("should match pattern")).to_be_visible()


@pytest.mark.expects("status of 422")
def test_the_audit_log_and_its_filters(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/volumes")
    make = (
        "name => fetch('/api/v1/tokens', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: name})"
    )
    for name in ("audited once", "audited twice"):
        page.evaluate(make, json.dumps({"name": name}))
    page.evaluate("fetch('/api/v1/jobs?limit=0').then(one => one.status)")
    page.goto(f"{server.url}/audit")
    table = page.get_by_role("table", name="Audit log")
    expect(table.get_by_role("row", name="GET /api/v1/jobs").first).to_contain_text("not usable (422)")
    table.get_by_role("button", name="Only POST /api/v1/tokens").first.click()
    expect(table.get_by_role("row", name="GET /api/v1/jobs")).to_have_count(0)
    expect(table.get_by_role("row", name="POST /api/v1/tokens").first).to_contain_text("done")
    page.wait_for_url("**/audit?action=*")
    page.get_by_role("button", name="Show all").click()
    expect(table.get_by_role("row", name="GET /api/v1/jobs").first).to_be_visible()
    page.get_by_label("Who").fill("nobody at all")
    expect(page.get_by_text("There is no such line")).to_be_visible()


@pytest.mark.expects(AWAY, "preload CSS", "dynamically imported module")
def test_a_server_that_restarts_under_open_pages(new_page: NewPage, server: Serving) -> None:
    """One that only asks, one that follows the stream of all, one that follows that of a job, one that is left for a
    page whose code is not there."""
    configuration, nodes, job, left = new_page(), new_page(), new_page(), new_page()
    left.goto(f"{server.url}/tokens")
    expect(left.get_by_role("row", name="deploy")).to_be_visible()
    configuration.goto(f"{server.url}/configuration")
    configuration.get_by_label("Checkpoints per job").fill("5")
    expect(configuration.get_by_role("button", name="Review changes")).to_be_enabled()
    nodes.goto(f"{server.url}/nodes")
    expect(nodes.get_by_role("row", name=LIVE)).to_be_visible()
    story = Story("outlives-the-server", datetime.now(UTC) - timedelta(minutes=30)).arrive().run(1500)
    job.goto(f"{server.url}/jobs/{record(server.engine, story)}")
    expect(job.get_by_test_id("standing")).to_contain_text(re.compile("It has run (29|3[0-9]) min"))
    server.stop()
    try:
        configuration.get_by_label("Checkpoints per job").fill("6")
        for page in (configuration, nodes, job):
            expect(away_from(page)).to_be_visible()
        left.route("**/assets/**", lambda route: route.abort())  # else some of it comes from the browser's cache
        left.get_by_role("link", name="Audit log").click()
        expect(left.get_by_text("This page's code could not be loaded")).to_be_visible()
        left.unroute("**/assets/**")
        record(server.engine, story.end(JobState.SUCCEEDED), 2)
    finally:
        server.start()
    for page in (configuration, nodes, job):
        expect(away_from(page)).to_be_hidden()
    expect(configuration.get_by_label("Checkpoints per job")).to_have_value("6")
    expect(configuration.get_by_role("button", name="Review changes")).to_be_enabled()
    configuration.get_by_role("button", name="Discard changes").click()
    find(nodes, "us-east-1b")
    expect(nodes.get_by_role("row", name=NOTICED)).to_have_count(0)
    expect(nodes.get_by_role("row", name=LIVE)).to_be_visible()
    expect(job.get_by_test_id("standing")).to_contain_text("It succeeded")
    expect(left.get_by_role("table", name="Audit log")).to_be_visible()


def away_from(page: Page) -> Locator:
    """The word that the page has no answer of its server."""
    return page.get_by_text("The server does not answer. What you see may be old")


@pytest.mark.expects(AWAY)
def test_a_browser_that_is_offline(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/volumes")
    expect(page.get_by_role("row", name="running-alignment")).to_be_visible()
    page.context.set_offline(True)
    page.get_by_test_id("finished").click()
    expect(away_from(page)).to_be_visible()
    expect(page.get_by_role("row", name="failed-alignment")).to_be_visible()
    page.context.set_offline(False)
    expect(away_from(page)).to_be_hidden()
    expect(page.get_by_role("row", name="running-alignment")).to_have_count(0)


PAGES = {
    "/configuration": "Checkpoints per job",
    "/configuration?tab=job_volume": "Custom tags",
    "/configuration?tab=store": "Space on the instance",
    "/configuration?tab=log": "Rotated files",
    "/configuration?tab=server": "Private key file",
    "/configuration?tab=cognito": "User pool id",
    "/configuration?tab=history": "grace · version",
    "/nodes": LIVE,
    f"/nodes/{NOTICED}": "AWS takes this instance back",
    "/volumes": "running-alignment",
    "/tokens": "nightly report",
    "/audit": "Every change and every refused request",
}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_accessible_in_both_themes_and_fits_a_telephone(page: Page, server: Serving, path: str) -> None:
    look_at(page, f"{server.url}{path}", PAGES[path])


def test_the_job_of_a_volume_by_keyboard(page: Page, server: Serving) -> None:
    page.goto(f"{server.url}/volumes")
    expect(page.get_by_role("row", name="running-alignment")).to_be_visible()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "running-alignment":
            break
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/jobs/{RUNNING}")
