"""A server that goes away under an open page, and comes back; one that has no job yet; one with very many."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from subprocess import run

import pytest
from playwright.sync_api import Page, expect

from api.app import create_app
from perdure.domain.jobs import JobState
from perdure.records.schema.database import migrate, open_engine
from perdure.settings import ApiSettings
from tests.browser.network import Network
from tests.browser.stories import Story, record
from tests.integration.test_api import served

MANY = 30_000


@pytest.mark.expects("ERR_CONNECTION", "Failed to load resource", "ERR_INCOMPLETE", "ERR_EMPTY_RESPONSE")
def test_the_server_restarts_under_an_open_page(page: Page, network: Network, tmp_path: Path, address: str) -> None:
    url = f"sqlite:///{tmp_path}/perdure.db"
    settings, engine = ApiSettings(database_url=url), open_engine(url)
    migrate(engine)
    story = Story("outlives-the-server", datetime.now(UTC) - timedelta(minutes=30)).arrive().run(1500)
    job_id = record(engine, story)
    listener = network.listen()
    port = listener.getsockname()[1]
    with ExitStack() as first:
        place = first.enter_context(served(create_app(settings), listener))
        page.goto(f"{place}/jobs/{job_id}")
        expect(page.get_by_test_id("standing")).to_contain_text("It has run 29 min")
    away = page.get_by_text("The server does not answer.", exact=False)
    expect(away.first).to_be_visible()
    record(engine, story.end(JobState.SUCCEEDED), 2)
    with served(create_app(settings), network.listen(port)):
        expect(page.get_by_test_id("standing")).to_contain_text("It succeeded")
        expect(away).to_have_count(0)
    engine.dispose()


def test_a_newcomer_is_told_what_to_type(page: Page, network: Network, tmp_path: Path, address: str) -> None:
    url = f"sqlite:///{tmp_path}/perdure.db"
    engine = open_engine(url)
    migrate(engine)
    with served(create_app(ApiSettings(database_url=url)), network.listen()) as place:
        page.goto(place)
        expect(page.get_by_text("No job has run here yet")).to_be_visible()
        expect(page.get_by_text("make demo")).to_be_visible()
        record(engine, Story("the-first", datetime.now(UTC)).arrive())
        expect(page.get_by_role("heading", name="Figures")).to_be_visible()
        page.goto("about:blank")  # lets go of the stream before the server does
    engine.dispose()


def test_very_many_jobs(page: Page, network: Network, tmp_path: Path, address: str) -> None:
    """Whole and usable; how fast is bench/console.py's."""
    url = f"sqlite:///{tmp_path}/perdure.db"
    fill = [
        sys.executable,
        "bench/server_load.py",
        url,
        "--jobs",
        str(MANY),
        "--events",
        str(MANY),
        "--nodes",
        "500",
    ]
    run(fill, check=True, timeout=280, cwd=Path(__file__).parents[2], capture_output=True)
    with served(create_app(ApiSettings(database_url=url)), network.listen()) as place:
        page.goto(f"{place}/jobs")
        table = page.get_by_role("table", name="Jobs")
        expect(table.locator("tbody tr")).to_have_count(25)
        for number in (2, 3):
            page.get_by_role("button", name="Next page").click()
            expect(page.get_by_role("button", name=f"Page {number}", exact=False)).to_have_attribute(
                "aria-current", "true"
            )
            expect(table.locator("tbody tr")).to_have_count(25)
        page.get_by_label("Find jobs").fill("0000012")
        page.keyboard.press("Enter")
        expect(table.locator("tbody th").first).to_contain_text("0000012")
        page.goto(f"{place}/?range=all")
        expect(page.get_by_test_id("total_jobs")).to_have_text(f"{MANY:,}")
        page.goto("about:blank")  # its stream ends before the server does
