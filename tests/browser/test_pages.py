"""Every page, in both themes and two widths: whole, accessible, and without an error in the browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Records, violations

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
    page.goto(records.url + address.format(**records.jobs))
    expect(page.get_by_text(word).first).to_be_visible()
    assert not (found := violations(page)), "\n".join(found)
    page.emulate_media(color_scheme="dark")
    expect(page.locator("body.awsui-dark-mode")).to_be_visible()
    assert not (found := violations(page, "color-contrast")), "\n".join(found)
    page.set_viewport_size({"width": 390, "height": 800})
    expect(page.get_by_text(word).first).to_be_visible()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, f"the page is {width} pixels wide"


TABS = {
    "Checkpoints (": "Checkpoints of the job",
    "Costs": "What the job cost and saved",
    "Configuration": "Configuration of the job",
    "Where it can go on": "Instance types that can go on with the job",
}


def test_the_parts_of_a_job_are_accessible(page: Page, records: Records) -> None:
    page.goto(f"{records.url}/jobs/{records.jobs['running']}")
    for tab, table in TABS.items():
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("table", name=table)).to_be_visible()
    page.get_by_role("button", name="The same as a table").click()
    expect(page.get_by_role("table", name="What the job did, in order")).to_be_visible()
    page.get_by_role("button", name="Checkpoint now").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert not (found := violations(page)), "\n".join(found)
    page.emulate_media(color_scheme="dark")
    expect(page.locator("body.awsui-dark-mode")).to_be_visible()
    assert not (found := violations(page, "color-contrast")), "\n".join(found)
