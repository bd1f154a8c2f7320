"""The list of jobs: found, sorted and paged by the server, all of it in the address, and live."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from playwright.sync_api import Locator, Page, expect
from sqlalchemy import text

from perdure.domain.jobs import JobState
from perdure.records.schema.database import reading
from tests.browser.conftest import Records
from tests.browser.stories import Story, record


def names(page: Page) -> Locator:
    """Where the names of the jobs that are shown stand."""
    return page.get_by_role("table", name="Jobs").locator("tbody tr th")


def test_found_by_status_and_text_and_all_of_it_is_in_the_address(page: Page, records: Records) -> None:
    page.goto(f"{records.url}/jobs")
    expect(page.get_by_role("link", name="train-unet")).to_be_visible()
    page.get_by_label("Find jobs").fill("Status = Fai")
    page.get_by_role("option", name="Failed", exact=True).click()
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_role("link", name="sort-bam-17")).to_be_visible()
    expect(page.get_by_role("link", name="train-unet")).to_have_count(0)
    expect(page).to_have_url(re.compile("Failed"))
    page.get_by_label("Find jobs").fill("bam")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="bwa-mem-000")).to_have_count(0)
    expect(names(page)).to_have_text(["sort-bam-17"])
    expect(page).to_have_url(re.compile("q=bam"))
    address = page.url
    page.get_by_role("link", name="sort-bam-17").click()
    expect(page.get_by_text("Why it failed")).to_be_visible()
    page.get_by_label("Breadcrumbs").get_by_role("link", name="Jobs").click()
    expect(page).to_have_url(address)
    expect(names(page)).to_have_text(["sort-bam-17"])
    page.go_back()
    page.go_back()
    expect(page).to_have_url(address)


def test_found_by_zone_and_node(page: Page, records: Records) -> None:
    page.goto(f"{records.url}/jobs?status=Running")
    waiting = page.get_by_role("row").filter(has_text="align-NA12878")
    expect(waiting).to_be_visible()
    node = waiting.get_by_role("link", name=re.compile("^i-")).inner_text()
    page.get_by_label("Find jobs").fill("Zone = us-east-1b")
    page.keyboard.press("Enter")
    expect(waiting).to_have_count(0)
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Find jobs").fill(f"Node = {node}")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name=re.compile(f"Remove.*{node}"))).to_be_visible()
    expect(page.get_by_role("table", name="Jobs").locator("tbody tr")).to_have_count(1)
    expect(names(page)).to_have_text(["align-NA12878"])
    page.goto(f"{records.url}/nodes/{node}")
    page.get_by_role("link", name="Jobs that are, or were last, here").click()
    expect(page.get_by_role("table", name="Jobs").locator("tbody tr")).to_have_count(1)
    expect(names(page)).to_have_text(["align-NA12878"])


def test_a_second_wish_before_the_first_is_answered_builds_on_it(page: Page, records: Records) -> None:
    """Found on a busy machine: the filter that somebody had just cleared was there again with the next one."""
    page.goto(f"{records.url}/jobs?status=Running&zone=us-east-1b")
    for one in ("Status", "Zone"):
        expect(page.get_by_role("button", name=re.compile(f"Remove.*{one}"))).to_be_visible()
    page.evaluate("""async () => {
        for (const one of ["Status", "Zone"]) {
            document.querySelector(`button[aria-label*="Remove"][aria-label*="${one}"]`).click();
            await new Promise(requestAnimationFrame);
        }
    }""")
    expect(page).to_have_url(f"{records.url}/jobs")
    expect(page.get_by_role("link", name="train-unet")).to_be_visible()


def test_sorted_and_paged(page: Page, records: Records) -> None:
    page.goto(f"{records.url}/jobs")
    by_name = page.get_by_role("columnheader", name="Job", exact=True).get_by_role("button")
    by_name.focus()  # the sticky header lies above it
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("sort=name"))
    with reading(records.engine) as session:
        known = sorted(session.execute(text("SELECT name FROM jobs")).scalars())
    first, second = known[:25], known[25:50]
    expect(names(page)).to_have_text(first)
    page.get_by_role("button", name="Next page").click()
    expect(page).to_have_url(re.compile("page=2"))
    expect(names(page)).to_have_text(second)
    page.reload()
    expect(names(page)).to_have_text(second)
    page.go_back()
    expect(names(page)).to_have_text(first)


def test_a_row_changes_while_somebody_looks(page: Page, records: Records) -> None:
    story = Story("watched-in-list", datetime.now(UTC) - timedelta(minutes=40)).arrive().run(1200)
    record(records.engine, story)
    page.goto(f"{records.url}/jobs")
    row = page.get_by_role("row").filter(has_text="watched-in-list")
    expect(row.get_by_text("Running")).to_be_visible()
    expect(row).to_contain_text("us-east-1a")
    record(records.engine, story.reclaim().wait(60).arrive().run(60), 2, state=JobState.CHECKPOINTING)
    expect(row.get_by_text("Checkpointing")).to_be_visible()
    expect(row).to_contain_text("us-east-1b")
    record(records.engine, Story("came-later", datetime.now(UTC)).arrive())
    expect(page.get_by_role("link", name="came-later")).to_be_visible()


def test_columns_are_remembered(page: Page, records: Records) -> None:
    page.goto(f"{records.url}/jobs")
    expect(page.get_by_role("columnheader", name="Exit code")).to_have_count(0)
    page.get_by_role("button", name="Preferences").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("10 jobs", exact=True).check()
    dialog.get_by_role("checkbox", name="Exit code").check()
    dialog.get_by_role("button", name="Confirm").click()
    expect(page.get_by_role("columnheader", name="Exit code")).to_be_visible()
    page.reload()
    expect(page.get_by_role("columnheader", name="Exit code")).to_be_visible()
    expect(names(page)).to_have_count(10)
