"""How long a person waits for the console, in Debian's Chromium.

`PYTHONPATH=. .venv/bin/python bench/console.py [ROUNDS] [--postgresql] [--jobs N] [--fill] [--url URL]`

It fills a database with 1,000,000 jobs first, once (bench/filled.py: build/bench/, minutes; --jobs makes it smaller;
--fill does that alone): SQLite, or a PostgreSQL server of Debian's package that ends with the run. Or it takes what
bench/server_load.py has put at URL. Milliseconds, medians of ROUNDS, with the load.

Each figure is taken in the page: from the deed (the navigation, the click or key that the browser notes) to the frame
that shows its result. The page is at rest before. Cold: nothing of the server in the browser's cache. Warm: as at a
second visit. What the pages weigh is said by `make console`, which fails when it is too much (console/budget.ts).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from playwright.sync_api import Browser, Page, sync_playwright

from api.app import create_app
from bench import server_load
from bench.filled import filled, filled_postgresql
from perdure.domain.jobs import JobEvent
from perdure.records.jobs.jobs import get_job, record_job
from perdure.records.schema.database import migrate, open_engine, reading, writing
from perdure.settings import ApiSettings
from tests.browser.conftest import CHROMIUM
from tests.browser.network import own_network
from tests.browser.stories import Story, record
from tests.integration.test_api import served

ROUNDS = 7
LONG = "job-of-two-thousand-events"
EVENTS = 2000
WATCH = (Path(__file__).parent / "console_watch.js").read_text()


class Figure(NamedTuple):
    """Something that a person waits for: goal and measurements in milliseconds."""

    name: str
    goal: int
    took: list[float]


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", nargs="?", type=int, default=ROUNDS)
    parser.add_argument("--url", default="")
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--fill", action="store_true")
    chosen = parser.parse_args()
    os.environ.setdefault("TEMPORAL_ADDRESS", "127.0.0.1:9")
    with ExitStack() as stack:
        given = stack.enter_context(filled_postgresql(chosen.jobs)) if chosen.postgresql else chosen.url
        url = given or filled(chosen.jobs)
        job_id = with_long_job(url)
        if chosen.fill:
            return
        network = stack.enter_context(own_network())
        place = stack.enter_context(served(create_app(ApiSettings(database_url=url)), network.listen()))
        program = network.program(CHROMIUM, Path(stack.enter_context(TemporaryDirectory())))
        chromium = stack.enter_context(sync_playwright()).chromium
        browser = chromium.launch(executable_path=str(program), args=["--no-sandbox", "--disable-gpu"])
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Chromium {browser.version}")
        for name, goal, took in measured(browser, place, job_id, chosen.rounds):
            print(
                f"{name:<56} {statistics.median(took):6.0f} {goal:>6}   {min(took):.0f} to {max(took):.0f}", flush=True
            )
        browser.close()


def with_long_job(url: str) -> str:
    """The id of a job with EVENTS lines and seven instances, which is recorded if it is not there yet."""
    engine = open_engine(url)
    migrate(engine)  # --url: filled by an older version, perhaps
    story = Story(LONG, datetime(2026, 10, 20, tzinfo=UTC)).arrive()
    for hours in (20, 31, 9, 44, 12, 30):
        story.run(hours * 3600).reclaim(notice=hours != 9).wait(90).arrive(20)
    story.run(3600)
    with reading(engine) as session:
        known = list(session.connection().exec_driver_sql(f"SELECT 1 FROM jobs WHERE job_id = '{story.job_id}'"))
    if not known:
        record(engine, story)
        with reading(engine) as session:
            job = get_job(session, story.job_id)
        first = len(story.events) + 1
        more = [
            JobEvent(
                sequence=number, at=story.now + timedelta(seconds=number), kind="remark", message=f"Line {number}."
            )
            for number in range(first, EVENTS + 1)
        ]
        with writing(engine) as session:
            record_job(session, job, more, 10)
    engine.dispose()
    return story.job_id


def measured(browser: Browser, place: str, job_id: str, rounds: int) -> Iterator[Figure]:
    """Each thing that a person does."""
    cold, warm = Figure("dashboard, cold", 1500, []), Figure("dashboard, warm", 500, [])
    for _ in range(rounds):
        with opened(browser) as page:
            for figure in (cold, warm):
                figure.took.append(loaded(page, f"{place}/?range=90d", "[data-testid=total_jobs]"))
    yield from (cold, warm)
    yield from list_figures(browser, place, rounds)
    by_address, by_click = Figure("job page, by its address, warm", 500, []), Figure("job page, by a click", 500, [])
    with opened(browser) as page:
        for _ in range(rounds + 1):
            by_address.took.append(loaded(page, f"{place}/jobs/{job_id}", "[data-testid=standing]"))
            page.goto(f"{place}/jobs?q={LONG}")
            link = page.get_by_role("link", name=LONG)
            link.wait_for()
            by_click.took.append(after(page, "click", link.click, "[data-testid=standing]"))
    yield by_address._replace(took=by_address.took[1:])
    yield by_click._replace(took=by_click.took[1:])


def list_figures(browser: Browser, place: str, rounds: int) -> Iterator[Figure]:
    """The list of jobs: pages, orders and filters, from the click or key to other rows."""
    with opened(browser) as page:

        def typed(words: str) -> Callable[[], None]:
            def deed() -> None:
                page.get_by_label("Find jobs").fill(words)
                at_rest(page)
                page.keyboard.press("Enter")

            return deed

        def sorted_by(name: str) -> Callable[[], None]:
            def deed() -> None:
                page.get_by_role("columnheader", name=name).get_by_role("button").first.focus()
                page.keyboard.press("Enter")

            return deed

        deeds: list[tuple[str, str, Callable[[], None]]] = [
            ("list, next page", "click", page.get_by_role("button", name="Next page").click),
            ("list, by name", "keydown", sorted_by("Job")),
            ("list, by protections", "keydown", sorted_by("Protections")),
            ("list, a text that few jobs have", "keydown", typed("0000012")),
            ("list, a text that many jobs have", "keydown", typed("align")),
            ("list, status Failed", "keydown", typed("Status = Failed")),
            ("list, a zone", "keydown", typed("Zone = us-east-1c")),
            ("list, a node", "keydown", typed(f"Node = {server_load.node_id(77)}")),
        ]
        for name, event, deed in deeds:
            figure = Figure(name, 200, [])
            for _ in range(rounds):
                page.goto(f"{place}/jobs")
                page.locator("table tbody th a").first.wait_for()
                at_rest(page)
                figure.took.append(after(page, event, deed))
            yield figure


@contextmanager
def opened(browser: Browser) -> Iterator[Page]:
    """A page with a cache of its own."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script(WATCH)
    yield context.new_page()
    context.close()


def loaded(page: Page, address: str, selector: str) -> float:
    """Milliseconds from the navigation to the frame that shows the first such thing."""
    page.goto(address)
    took: float = page.evaluate("selector => perdureWatch.shown(selector)", selector)
    return took


def at_rest(page: Page) -> None:
    """Until the browser has nothing left to do, as before a person's next key."""
    page.evaluate("() => new Promise(done => requestIdleCallback(() => done()))")


def after(page: Page, event: str, deed: Callable[[], object], selector: str = "") -> float:
    """Milliseconds from the last such event to the frame that shows what `selector` names, or other rows."""
    page.evaluate("([event, selector]) => perdureWatch.begin(event, selector)", [event, selector])
    deed()
    took: float = page.evaluate("() => perdureWatch.ended()")
    return took


if __name__ == "__main__":
    main()
