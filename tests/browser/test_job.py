"""The page of a job: its life-line by mouse and keyboard, and what happens while somebody looks."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, Route, expect

from perdure.domain.jobs import JobState
from tests.browser.conftest import NewPage, Records
from tests.browser.stories import Story, record


def test_the_life_line_by_keyboard(page: Page, records: Records) -> None:
    page.goto(f"{records.url}/jobs/{records.jobs['long']}")
    picture = page.get_by_role("group", name=re.compile("Picture of the job's life: 6 containers, 5 interruptions"))
    expect(picture).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("navigation", name="Breadcrumbs").get_by_role("link", name="Jobs")).to_be_focused()
    picture.focus()
    fit = page.get_by_role("button", name="Show the whole life")
    expect(fit).to_be_disabled()
    for _ in range(6):
        page.keyboard.press("+")
    expect(fit).to_be_enabled()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("n")
    expect(page.get_by_text(re.compile(r"^Start: 12 s on i-\w+ in us-east-1a \(attempt 1\)"))).to_be_visible()
    page.keyboard.press("n")
    expect(page.get_by_text(re.compile(r"^Run: 1 d 7 h on "))).to_be_visible()
    page.keyboard.press("0")
    expect(fit).to_be_disabled()


def test_from_two_weeks_down_to_one_interruption(page: Page, records: Records) -> None:
    page.goto(f"{records.url}/jobs/{records.jobs['long']}")
    page.get_by_role("button", name=re.compile("^Show")).first.click()
    page.get_by_role("option", name=re.compile("Interruption 1")).click()
    for word in ("8.3 s", "Wait 1 min 35 s", "13 s", "8.8 s"):  # the others are narrower than their words
        expect(page.locator("svg text", has_text=word).first).to_be_visible()
    page.get_by_role("button", name="The same as a table").click()
    table = page.get_by_role("table", name="What the job did, in order")
    expect(table.get_by_role("row").filter(has_text="Lost work, done again")).to_have_count(1)


def test_it_is_reclaimed_while_somebody_looks(page: Page, records: Records) -> None:
    story = Story("watched", datetime.now(UTC) - timedelta(hours=1)).arrive().run(3500)
    job_id = record(records.engine, story)
    held: list[Route] = []
    page.route("**/api/v1/stream**", lambda route: held.append(route))
    with page.expect_request("**/api/v1/stream**"):
        page.goto(f"{records.url}/jobs/{job_id}")
    standing = page.get_by_test_id("standing")
    expect(standing).to_contain_text(re.compile("It has run (59 min|1 h)"))
    # The page has its answers, and nobody follows yet.
    record(records.engine, story.reclaim(), 2, state=JobState.CHECKPOINT_SUCCEEDED)
    for route in held:
        route.continue_()
    page.unroute("**/api/v1/stream**")
    expect(standing).to_contain_text("for another instance; it goes on from checkpoint 4 there.")
    expect(page.get_by_role("row").filter(has_text="The job is safe.")).to_be_visible()
    record(records.engine, story.wait(40).arrive(9).run(5), 3)
    expect(standing).to_contain_text("where it went on from checkpoint 4")
    picture = page.get_by_role("group", name=re.compile("2 containers, 1 interruptions"))
    expect(picture.get_by_text("us-east-1b")).to_be_visible()


def test_what_a_viewer_asks_and_what_failed(page: Page, records: Records) -> None:
    page.goto(f"{records.url}/jobs/{records.jobs['failed']}")
    expect(page.get_by_text("most often because it needed more memory")).to_be_visible()
    expect(page.get_by_role("button", name="Checkpoint now")).to_have_count(0)
    page.goto(f"{records.url}/jobs/{records.jobs['kept']}")
    expect(page.get_by_text(re.compile("Checkpoint [0-9]+ is kept for another 6 d"))).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("Workflow managers such as Nextflow")).to_be_visible()


def test_the_log_stream_of_each_attempt(page: Page, records: Records) -> None:
    page.goto(f"{records.url}/jobs/{records.jobs['short']}")
    page.get_by_role("tab", name="Attempts (4)").click()
    table = page.get_by_role("table", name="Attempts of the job")
    expect(table.get_by_role("row").filter(has_text="node lost")).to_have_count(1)
    link = table.get_by_role("link", name="Log stream of attempt 2")
    address = link.get_attribute("href") or ""
    assert address.startswith("https://console.aws.amazon.com/cloudwatch/home?region=us-east-1#logsV2:log-groups/")


def test_lines_before_the_newest_five_hundred_come_on_request(page: Page, records: Records) -> None:
    story = Story("talkative", datetime.now(UTC) - timedelta(hours=1)).arrive()
    for number in range(700):
        story.tell("remark", f"Remark {number}.")
    record(records.engine, story, log_group="")
    page.goto(f"{records.url}/jobs/{story.job_id}")
    expect(page.get_by_role("heading", name="Events (500)")).to_be_visible()
    page.get_by_label("Find events").fill("preflight")
    expect(page.get_by_text("No event matches")).to_be_visible()
    page.get_by_role("button", name=re.compile("^Load the 2[0-9]+ before")).click()
    expect(page.get_by_role("row").filter(has_text="Preflight: protectable.")).to_be_visible()
    page.get_by_role("tab", name="Output").click()
    expect(page.get_by_text("AWS Batch has named no CloudWatch log stream")).to_be_visible()


@pytest.mark.expects("404")
def test_a_job_that_nobody_knows(page: Page, records: Records) -> None:
    page.goto(f"{records.url}/jobs/nobody")
    expect(page.get_by_text(re.compile("There is no job"))).to_be_visible()


@pytest.mark.expects("409")
def test_a_refusal_is_said(page: Page, records: Records) -> None:
    """Its workflow is not there: the server says so, and the dialog stays."""
    page.goto(f"{records.url}/jobs/{records.jobs['running']}")
    page.get_by_role("button", name="Checkpoint now").click()
    page.get_by_role("dialog").get_by_role("button", name="Checkpoint now").click()
    expect(page.get_by_role("dialog").get_by_text("is not running under Perdure's protection")).to_be_visible()


def test_two_tabs_in_the_background_hold_no_stream(new_page: NewPage, records: Records) -> None:
    """Browsers open six connections to a server: a stream per open tab would stop the seventh."""
    page = new_page()
    with page.expect_response(re.compile("/api/v1/stream")):
        page.goto(f"{records.url}/jobs/{records.jobs['long']}")
    expect(page.get_by_text("Life-line").first).to_be_visible()
    with page.expect_event("requestfailed", lambda request: "/api/v1/stream" in request.url):
        page.evaluate(
            "Object.defineProperty(document, 'visibilityState', {value: 'hidden', configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
    with page.expect_request(re.compile("/api/v1/stream")):
        page.evaluate(
            "Object.defineProperty(document, 'visibilityState', {value: 'visible', configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
