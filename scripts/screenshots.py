"""Writes a picture of every page of the console, light and dark, to docs/console/: `make screenshots`.

The platform that they show is made up (tests/browser/stories.py), but every figure on them is worked out by the server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, sync_playwright

from api.app import create_app
from perdure.records.schema.database import migrate, open_engine
from perdure.settings import ApiSettings
from tests.browser import stories
from tests.browser.conftest import CHROMIUM
from tests.browser.network import Network, own_network
from tests.integration.test_api import served

PLACE = Path(__file__).parents[1] / "docs/console"
WIDTH = 1280
PAGES = {
    "dashboard": ("/", 1180),
    "jobs": ("/jobs", 760),
    "job": ("/jobs/{short}", 860),
    "job-running": ("/jobs/{running}", 1100),
    "job-two-weeks": ("/jobs/{long}", 700),
    "job-failed": ("/jobs/{failed}", 900),
    "nodes": ("/nodes", 760),
    "volumes": ("/volumes", 760),
    "configuration": ("/configuration", 1000),
    "tokens": ("/tokens", 600),
    "audit": ("/audit", 600),
    "sign-in": ("/sign-in", 600),
}
"""Address, and how many pixels of the page's height are worth showing."""


@contextmanager
def platform(network: Network) -> Iterator[tuple[str, dict[str, str]]]:
    """A server with made-up jobs, and the jobs' ids. Nothing of it needs Temporal, which is not there."""
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/perdure.db"
        engine = open_engine(url)
        migrate(engine)
        jobs = stories.fill(engine, datetime.now(UTC))
        os.environ["TEMPORAL_ADDRESS"] = "127.0.0.1:9"
        with served(create_app(ApiSettings(database_url=url)), network.listen()) as place:
            yield place, jobs
        engine.dispose()


def shoot(page: Page, file: Path) -> None:
    """A picture of the page when it has come to rest."""
    page.wait_for_load_state("load")
    page.locator("h1, h2").last.wait_for()
    page.locator("[aria-label=Loading]").last.wait_for(state="detached")
    page.wait_for_timeout(1500)  # charts draw themselves after their data is there
    page.screenshot(path=str(file), scale="css")
    print(f"{file.relative_to(PLACE.parents[1])}: {file.stat().st_size // 1024} KiB", file=sys.stderr)


def main(names: list[str]) -> None:
    """All pages, or those named."""
    PLACE.mkdir(exist_ok=True)
    with ExitStack() as stack:
        network = stack.enter_context(own_network())
        url, jobs = stack.enter_context(platform(network))
        program = network.program(CHROMIUM, Path(stack.enter_context(TemporaryDirectory())))
        chromium = stack.enter_context(sync_playwright()).chromium
        browser = chromium.launch(executable_path=str(program), args=["--no-sandbox", "--disable-gpu"])
        for theme in ("light", "dark"):
            context = browser.new_context(
                color_scheme=theme, reduced_motion="reduce", viewport={"width": WIDTH, "height": 800}
            )
            page = context.new_page()
            for name, (address, height) in PAGES.items():
                if names and name not in names:
                    continue
                page.set_viewport_size({"width": WIDTH, "height": height})
                page.goto(url + address.format(**jobs))
                shoot(page, PLACE / f"{name}-{theme}.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
