"""Every page, in both themes and two widths: whole, accessible, quick to ask, and without an error in the browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Records, look_at, violations

PAGES = {
    "dashboard": ("/", "Needs you now"),
    "jobs": ("/jobs", "train-unet"),
    "job": ("/jobs/{running}", "Life-line"),
    "long job": ("/jobs/{long}", "Life-line"),
    "failed job": ("/jobs/{failed}", "Why it failed"),
    "unprotected job": ("/jobs/{unprotected}", "It is not protected"),
    "unknown page": ("/no-such-page", "There is no such page"),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_in_both_themes_and_fits_a_telephone(page: Page, records: Records, name: str) -> None:
    address, word = PAGES[name]
    look_at(page, records.url + address.format(**records.jobs), word)


def test_the_dashboard_says_who_is_not_protected_and_why(page: Page, records: Records) -> None:
    page.goto(records.url)
    page.get_by_role("link", name="Show them").click()
    listed = page.get_by_role("table", name="Jobs", exact=True).locator("tbody tr")
    expect(listed).to_have_count(1)
    expect(listed).to_contain_text("No: the mount '/data' (from '/mnt/training') is writable")
    page.get_by_role("button", name="Clear").click()
    expect(listed).to_have_count(25)
    page.goto(records.url)
    table = page.get_by_role("table", name="Jobs without protection")
    row = table.get_by_role("row").filter(has_text="lies outside the job volume")
    row.get_by_role("link", name=records.jobs["unprotected"][:8]).click()
    expect(page.get_by_role("heading", name="train-unet")).to_be_visible()
    expect(page.get_by_text("Use TCP, or do without it.").first).to_be_visible()


TABS = {
    "Checkpoints (": "Checkpoints of the job",
    "Costs": "What the job cost and saved",
    "Settings": "Configuration of the job",
    "Attempts (": "Attempts of the job",
    "Instance types": "Instance types that can go on with the job",
}


def test_the_parts_of_a_job_are_accessible(page: Page, records: Records) -> None:
    page.goto(f"{records.url}/jobs/{records.jobs['running']}")
    for tab, table in TABS.items():
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("table", name=table)).to_be_visible()
        if tab == "Checkpoints (":
            expect(page.get_by_text("Kept in the job's volume vol-")).to_be_visible()
            expect(page.get_by_role("row").filter(has_text="Yes, rehearsed")).to_have_count(1)
            expect(page.get_by_role("columnheader", name="Shares")).to_be_visible()
    page.get_by_role("button", name="The same as a table").click()
    expect(page.get_by_role("table", name="What the job did, in order")).to_be_visible()
    page.get_by_role("button", name="Checkpoint now").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert not (found := violations(page)), "\n".join(found)
    page.emulate_media(color_scheme="dark")
    expect(page.locator("body.awsui-dark-mode")).to_be_visible()
    assert not (found := violations(page, "color-contrast")), "\n".join(found)
