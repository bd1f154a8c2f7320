"""A server that has no job yet, and one with very many."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import Page, expect

from bench import server_load
from tests.browser.network import Network
from tests.browser.serving import serving
from tests.browser.stories import Story, record

FEW, COPIES = 2000, 198
MANY = 200_000
"""Every second one of the few is finished, and is there 198 times more."""


def test_a_newcomer_is_told_what_to_type(page: Page, network: Network, tmp_path: Path, address: str) -> None:
    with serving(tmp_path, network) as server:
        page.goto(server.url)
        expect(page.get_by_text("No job has run here yet")).to_be_visible()
        expect(page.get_by_text("make demo")).to_be_visible()
        record(server.engine, Story("the-first", datetime.now(UTC)).arrive())
        expect(page.get_by_role("heading", name="Figures")).to_be_visible()
        page.goto("about:blank")  # lets go of the stream before the server does


def test_very_many_jobs(page: Page, network: Network, tmp_path: Path, address: str) -> None:
    """Whole and usable; how fast is bench/console.py's."""
    server_load.load(f"sqlite:///{tmp_path}/perdure.db", server_load.Maker(FEW, FEW, 500, seed=11), COPIES)
    with serving(tmp_path, network) as server:
        page.goto(f"{server.url}/jobs")
        table = page.get_by_role("table", name="Jobs")
        expect(table.locator("tbody tr")).to_have_count(25)
        for number in (2, 3):
            page.get_by_role("button", name="Next page").click()
            expect(page.get_by_role("button", name=f"Page {number}", exact=False)).to_have_attribute(
                "aria-current", "true"
            )
            expect(table.locator("tbody tr")).to_have_count(25)
        page.get_by_label("Find jobs").fill("1230012")
        page.keyboard.press("Enter")
        expect(table.locator("tbody tr")).to_have_count(1)
        expect(table.locator("tbody th").first).to_contain_text("1230012")
        page.goto(f"{server.url}/?range=all")
        expect(page.get_by_test_id("total_jobs")).to_have_text(f"{MANY:,}")
        page.goto("about:blank")
