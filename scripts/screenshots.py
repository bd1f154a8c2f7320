"""Writes a picture of every page of the console, light and dark, to docs/console/: `make screenshots`.

`python -m scripts.screenshots --width 390 --to FOLDER [NAME...]` writes them as a telephone shows them.
The platform that they show is made up (tests/browser/stories.py), but every figure on them is worked out by the server.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Page, sync_playwright

from api.app import create_app
from perdure.records.jobs.jobs import get_job
from perdure.records.schema.database import migrate, open_engine, reading
from perdure.settings import ApiSettings
from tests.browser import stories
from tests.browser.conftest import CHROMIUM
from tests.browser.network import Network, own_network
from tests.integration.test_api import served

PLACE = Path(__file__).parents[1] / "docs/console"
WIDTH = 1280
PAGES = {
    "dashboard": ("/", 1284),
    "jobs": ("/jobs", 760),
    "job": ("/jobs/{short}", 860),
    "job-running": ("/jobs/{running}", 1100),
    "job-two-weeks": ("/jobs/{long}", 700),
    "job-failed": ("/jobs/{failed}", 900),
    "job-rehearsal-failed": ("/jobs/{doubtful}", 900),
    "jobs-unprotected": ("/jobs?unprotected=true", 400),
    "nodes": ("/nodes", 760),
    "node": ("/nodes/{node}", 700),
    "volumes": ("/volumes", 640),
    "configuration": ("/configuration", 1000),
    "configuration-history": ("/configuration?tab=history", 600),
    "tokens": ("/tokens", 500),
    "audit": ("/audit", 600),
    "sign-in": ("/sign-in", 560),
}
"""Address, and how many pixels of the page's height are worth showing."""


DONE_BY_HAND = """async () => {
    const headers = {"Content-Type": "application/json", "X-Perdure-Request": "console"};
    const ask = async (method, path, body) => {
        const answer = await fetch(`/api/v1/${path}`, {method, headers, body: JSON.stringify(body)});
        if (!answer.ok) throw new Error(`${path}: ${await answer.text()}`);
    };
    await ask("PATCH", "configuration/checkpoint", {interval_seconds: 1800, keep: 3});
    await ask("PATCH", "configuration/job_volume", {size_gib: 200, tags: {team: "genomics"}});
    const report = {name: "nightly report", role: "viewer", areas: ["jobs", "report"], expires_in_seconds: "2160h"};
    await ask("POST", "tokens", report);
    await ask("POST", "tokens", {name: "deploy", role: "admin", areas: [], expires_in_seconds: "120h"});
}"""
"""What tokens, audit log and history show comes of this."""


@contextmanager
def platform(network: Network) -> Iterator[tuple[str, str, dict[str, str]]]:
    """A server with made-up jobs, one that asks for a sign-in, and the jobs' ids.

    Temporal is not there: nothing that is shown needs it."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        url = f"sqlite:///{folder}/perdure.db"
        engine = open_engine(url)
        migrate(engine)
        jobs = stories.fill(engine, datetime.now(UTC))
        with reading(engine) as session:
            jobs["node"] = get_job(session, jobs["running"]).attempts[-1].instance_id
        os.environ["TEMPORAL_ADDRESS"] = "127.0.0.1:9"
        places = [
            stack.enter_context(served(create_app(settings), network.listen()))
            for settings in (ApiSettings(database_url=url), ApiSettings(database_url=url, require_sign_in=True))
        ]
        yield places[0], places[1], jobs
        engine.dispose()


def shoot(page: Page, file: Path) -> None:
    """A picture of the page when it has come to rest."""
    page.wait_for_load_state("load")
    page.locator("h1, h2").last.wait_for()
    page.locator("[aria-label=Loading]").last.wait_for(state="detached")
    page.wait_for_timeout(1500)  # charts draw themselves after their data is there
    page.screenshot(path=str(file), scale="css")
    print(f"{file}: {file.stat().st_size // 1024} KiB", file=sys.stderr)


def main() -> None:
    """All pages, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(PAGES))
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--to", type=Path, default=PLACE)
    chosen = parser.parse_args()
    chosen.to.mkdir(exist_ok=True)
    with ExitStack() as stack:
        network = stack.enter_context(own_network())
        open_to_all, locked, jobs = stack.enter_context(platform(network))
        program = network.program(CHROMIUM, Path(stack.enter_context(TemporaryDirectory())))
        chromium = stack.enter_context(sync_playwright()).chromium
        browser = chromium.launch(executable_path=str(program), args=["--no-sandbox", "--disable-gpu"])
        for theme in ("light", "dark"):
            context = browser.new_context(
                color_scheme=theme, reduced_motion="reduce", viewport={"width": chosen.width, "height": 800}
            )
            page = context.new_page()
            if theme == "light":
                page.goto(open_to_all)
                page.evaluate(DONE_BY_HAND)
            for name in chosen.names or PAGES:
                address, height = PAGES[name]
                page.set_viewport_size({"width": chosen.width, "height": height})
                page.goto((locked if name == "sign-in" else open_to_all) + address.format(**jobs))
                shoot(page, chosen.to / f"{name}-{theme}.png")
        browser.close()


if __name__ == "__main__":
    main()
