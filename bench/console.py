"""How long a person waits for the console, in Debian's Chromium: `.venv/bin/python bench/console.py URL [ROUNDS]`.

URL: of a database that bench/server_load.py has filled. Milliseconds, medians of ROUNDS, with the load.
Each figure is taken in the page, from the deed (an address, a key) to the paint that shows its result.
"""

from __future__ import annotations

import gzip
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, Page, sync_playwright

from api.app import create_app
from api.routes.console import BUILT
from perdure.settings import ApiSettings
from tests.browser.conftest import CHROMIUM
from tests.browser.network import own_network
from tests.integration.test_api import served

ROUNDS = 7


def main(url: str, rounds: int) -> None:
    """Measures, and prints a table."""
    os.environ.setdefault("TEMPORAL_ADDRESS", "127.0.0.1:9")
    with ExitStack() as stack:
        network = stack.enter_context(own_network())
        app = create_app(ApiSettings(database_url=url))
        place = stack.enter_context(served(app, network.listen()))
        program = network.program(CHROMIUM, Path(stack.enter_context(TemporaryDirectory())))
        chromium = stack.enter_context(sync_playwright()).chromium
        browser = chromium.launch(executable_path=str(program), args=["--no-sandbox", "--disable-gpu"])
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Chromium {browser.version}")
        for name, goal, figures in measured(browser, place, rounds):
            print(f"{name:<50} {statistics.median(figures):8.0f} {goal:>8}   {min(figures):.0f} to {max(figures):.0f}")
        browser.close()
    for name, size in weights().items():
        print(f"{name:<50} {size / 1000:8.0f} KB of gzipped JavaScript")


def measured(browser: Browser, place: str, rounds: int) -> list[tuple[str, int, list[float]]]:
    """Name, goal and milliseconds of each thing that a person does."""
    cold, warm, opened = [], [], []
    for _ in range(rounds):
        page = browser.new_context().new_page()
        cold.append(shown(page, lambda page=page: page.goto(place), "[data-testid=total_jobs]"))
        warm.append(shown(page, lambda page=page: page.goto(place), "[data-testid=total_jobs]"))
        page.context.close()
    page = browser.new_context().new_page()
    page.goto(f"{place}/jobs")
    page.locator("table tbody th a").first.wait_for()
    turned = []
    for _ in range(rounds):
        first = page.locator("table tbody th a").first.get_attribute("href")
        turned.append(
            shown(
                page,
                page.get_by_role("button", name="Next page").click,
                f"table tbody tr:first-child th a:not([href='{first}'])",
            )
        )
    address = page.locator("table tbody th a").first.get_attribute("href")
    for _ in range(rounds):
        page.goto(f"{place}/jobs")
        page.locator("table tbody th a").first.wait_for()
        opened.append(shown(page, lambda: page.goto(f"{place}{address}"), "[data-testid=standing]"))
    return [
        ("first paint of the dashboard, cold", 1500, cold),
        ("the same, warm", 500, warm),
        ("next page of the list, from the click to the rows", 200, turned),
        ("a job's page", 500, opened),
    ]


def shown(page: Page, deed: Callable[[], object], selector: str) -> float:
    """Milliseconds from the deed to the moment at which there is something of that kind to be seen."""
    begun = time.perf_counter()
    deed()
    page.locator(selector).first.wait_for()
    return (time.perf_counter() - begun) * 1000


def weights() -> dict[str, int]:
    """Bytes of JavaScript, gzipped: what the first page needs, and what each other one adds to it."""
    assets = BUILT / "assets"
    main_file = re.search(r"assets/(index-[\w-]+\.js)", (BUILT / "index.html").read_text())
    assert main_file is not None
    shell = needs(assets, main_file[1])
    pages = re.findall(r'import\("\./([\w.-]+\.js)"\)', (assets / main_file[1]).read_text())
    size = {
        name: len(gzip.compress((assets / name).read_bytes(), 9)) for name in os.listdir(assets) if name.endswith(".js")
    }
    added = {name: sum(size[one] for one in needs(assets, name) - shell) for name in dict.fromkeys(pages)}
    whole = sum(size[one] for one in shell)
    return {"what every page needs": whole} | {f"a page adds ({name})": more for name, more in added.items()}


def needs(folder: Path, name: str) -> set[str]:
    """A file, and what it imports without being asked."""
    found, open_ones = set(), [name]
    while open_ones:
        one = open_ones.pop()
        if one not in found:
            found.add(one)
            open_ones += re.findall(r'(?:from|import)"\./([\w.-]+\.js)"', (folder / one).read_text())
    return found


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS)
