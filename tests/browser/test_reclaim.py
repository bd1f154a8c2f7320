"""A real job on a real local stack is reclaimed while its page is open, and the person watches it happen."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser.network import Network
from tests.e2e.conftest import User, until

pytestmark = [pytest.mark.stack]


@pytest.fixture
def user(stack: str) -> Iterator[User]:
    with contextlib.closing(User(stack)) as user:
        yield user


def output(page: Page) -> tuple[list[str], list[str]]:
    """Lines that the job's page shows of its output, read anew: what the chain printed, and its token on stderr."""
    page.get_by_role("button", name="Read again").click()
    text = "".join(page.locator("pre.log").all_text_contents())
    lines = [re.sub(r"^[0-9:]+  ", "", line) for line in text.splitlines()]
    return (
        [line for line in lines if not line.startswith("token ")],
        [line for line in lines if line.startswith("token ")],
    )


def test_a_reclaim_is_watched(page: Page, network: Network, user: User) -> None:
    job_id = user.chain(600, options=("--name", "watched", "--interval", "0"))
    until(lambda: user.printed(job_id), "it runs")
    user.checkpoint(job_id)
    server = urlsplit(user.status["api_url"])
    with network.forwarded(server.hostname or "", server.port or 0) as place:
        page.goto(f"{place}/jobs")
        row = page.get_by_role("row").filter(has_text="watched")
        expect(row.get_by_text(re.compile("Running|Checkpointing"))).to_be_visible()
        row.get_by_role("link", name="watched").click()
        standing = page.get_by_test_id("standing")
        expect(standing).to_contain_text("It has run")
        zone = user.placed(job_id)["zone"]
        other = next(str(node["zone"]) for node in user.status["nodes"] if node["zone"] != zone)
        user.reclaim("--job", job_id, "--to-zone", other)
        expect(standing).to_contain_text("where it went on from checkpoint")
        picture = page.get_by_role("group", name=re.compile("2 containers, 1 interruptions"))
        for shown in (zone, other):
            expect(picture.get_by_text(shown, exact=True)).to_be_visible()
        page.get_by_role("button", name="The same as a table").click()
        table = page.get_by_role("table", name="What the job did, in order")
        for word in ("Dump", "Hand-over", "Volume", "Restore"):
            expect(table.get_by_role("row").filter(has_text=word)).to_have_count(1)
        user.finish(job_id)
        expect(standing).to_contain_text("It succeeded")
        expect(standing).to_contain_text("lost no work")
        page.get_by_role("tab", name="Output").click()
        for attempt in (1, 2):
            expect(page.get_by_label(f"Lines of attempt {attempt}")).to_be_visible()
        printed, told = (text.splitlines() for text in user.logs(job_id))
        until(lambda: output(page) == (printed, told), "each line once, in one log")
        page.get_by_role("tab", name="Logs").click()
        expect(page.get_by_label("File", exact=True).first).to_be_visible()
