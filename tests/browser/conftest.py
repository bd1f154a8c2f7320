"""The console as a person sees it: Debian's Chromium, the real server, a real Temporal, records of made-up jobs.

Every page of a test is watched: what the browser's console says at level error, an exception of the page and a request
that fails are failures of the test, unless it is marked with `expects`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

import pytest
from anyio.from_thread import start_blocking_portal
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright
from sqlalchemy import Engine

from api.app import create_app
from api.routes import console
from perdure.records.schema.database import migrate, open_engine
from perdure.settings import ApiSettings
from tests.browser import stories
from tests.browser.network import Network, own_network
from tests.integration.test_api import jobs_at_work, served
from tests.patience import PATIENCE

CHROMIUM = Path("/usr/bin/chromium")
AXE = Path(__file__).parents[2] / "console/node_modules/axe-core/axe.min.js"


@dataclass
class Records:
    """A platform at work: its database, its jobs' ids by what they are, and where it is served."""

    engine: Engine
    jobs: dict[str, str]
    url: str = ""


Made = TypeVar("Made")


class Shared:
    """What the files of this folder share while they follow each other on one worker: a browser, its network, Temporal,
    a platform at work. Each is made when it is first asked for; all end together."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._made: dict[Callable[..., Any], Any] = {}

    def one(self, make: Callable[[], AbstractContextManager[Made]]) -> Made:
        """What `make` makes; the same for whoever asks."""
        if make not in self._made:
            self._made[make] = self._stack.enter_context(make())
        made: Made = self._made[make]
        return made

    def end(self) -> None:
        """With playwright's event loop, which would be in the way of other tests."""
        self._made.clear()
        self._stack.close()


SHARED = Shared()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The last test of this folder, for now: other tests follow on this worker."""
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        SHARED.end()


@pytest.fixture(scope="session", autouse=True)
def built() -> Iterator[None]:
    """What a person gets is tested: a console that is out of date would prove nothing."""
    if not (console.BUILT / "index.html").exists():
        pytest.fail("the console is not built: run `make console`")
    yield
    SHARED.end()  # after a run that was broken off


@contextmanager
def temporal_at_work() -> Iterator[str]:
    """Address of a Temporal server with some workflows, in the environment too."""
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())
        client = stack.enter_context(portal.wrap_async_context_manager(jobs_at_work()))
        address = client.service_client.config.target_host
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("TEMPORAL_ADDRESS", address)
        yield address


@contextmanager
def platform() -> Iterator[Records]:
    SHARED.one(temporal_at_work)
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/perdure.db"
        engine = open_engine(url)
        migrate(engine)
        found = Records(engine, stories.fill(engine, datetime.now(UTC)))
        with served(create_app(ApiSettings(database_url=url)), SHARED.one(own_network).listen()) as found.url:
            yield found
        engine.dispose()


@contextmanager
def chromium() -> Iterator[Browser]:
    playwright = SHARED.one(sync_playwright)
    with TemporaryDirectory() as folder:
        program = SHARED.one(own_network).program(CHROMIUM, Path(folder))
        # As root, Chromium has no sandbox; it sees nothing but our own pages.
        options = ["--no-sandbox", "--disable-gpu", "--process-per-site"]
        browser = playwright.chromium.launch(executable_path=str(program), args=options, timeout=PATIENCE * 1000)
        yield browser
        browser.close()


@contextmanager
def profile() -> Iterator[BrowserContext]:
    """One for all pages. What it has loaded once, it need not load and translate again: half of a page's time.

    One process shows all pages of 127.0.0.1, whatever their ports. A page that stays open keeps it: what it has
    translated holds for the next page, too, which takes another half.
    """
    context = SHARED.one(chromium).new_context(reduced_motion="reduce")
    context.set_default_timeout(PATIENCE * 1000)
    staying = context.new_page()
    staying.route("**/*", lambda route: route.fulfill(body="stays open"))
    staying.goto("http://127.0.0.1/")
    yield context
    context.close()


@pytest.fixture(scope="module")
def address() -> str:
    """Of Temporal."""
    return SHARED.one(temporal_at_work)


@pytest.fixture(scope="module")
def records() -> Records:
    return SHARED.one(platform)


expect.set_options(timeout=PATIENCE * 1000)


@pytest.fixture(scope="module")
def network() -> Network:
    return SHARED.one(own_network)


class Watched:
    """What went wrong on pages."""

    def __init__(self, expected: tuple[str, ...]) -> None:
        self.expected = expected
        self.problems: list[str] = []

    def watch(self, page: Page) -> Page:
        page.set_default_timeout(PATIENCE * 1000)
        page.on("console", self._said)
        page.on("pageerror", lambda problem: self._note(f"exception: {problem}"))
        page.on("requestfailed", self._failed)
        return page

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self._note(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def _failed(self, request: Request) -> None:
        # A page that is left lets go of what it asked for, and of the stream.
        if request.failure != "net::ERR_ABORTED":
            self._note(f"request failed: {request.method} {request.url}: {request.failure}")

    def _note(self, problem: str) -> None:
        if not any(re.search(word, problem) for word in self.expected):
            self.problems.append(problem)


@pytest.fixture
def watched(request: pytest.FixtureRequest) -> Iterator[Watched]:
    marker = request.node.get_closest_marker("expects")
    found = Watched(tuple(marker.args) if marker else ())
    yield found
    assert not found.problems, "\n".join(found.problems)


NewPage = Callable[..., Page]
Theme = Literal["light", "dark"]


@pytest.fixture
def new_page(watched: Watched, request: pytest.FixtureRequest) -> Iterator[NewPage]:
    """Makes pages; their cookies and storage end with the test. A failed one leaves a picture of its last page."""
    pages: list[Page] = []
    context = SHARED.one(profile)

    def make(width: int = 1280, height: int = 900, theme: Theme = "light") -> Page:
        page = watched.watch(context.new_page())
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=theme)
        pages.append(page)
        return page

    failed = request.session.testsfailed
    yield make
    if pages and (request.session.testsfailed > failed or watched.problems):
        folder = Path(os.environ.get("PERDURE_BROWSER_PICTURES", "/tmp"))
        name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
        pages[-1].screenshot(path=str(folder / f"perdure-{name}.png"))
        print(f"a picture of the page: {folder}/perdure-{name}.png", file=sys.stderr)
    for page in pages:
        if page.url.startswith("http"):
            page.evaluate("localStorage.clear()")
        page.close()
    context.set_offline(False)
    context.clear_cookies()


@pytest.fixture
def page(new_page: NewPage) -> Page:
    """A page of a usual screen."""
    return new_page()


def violations(page: Page, *rules: str) -> list[str]:
    """What axe-core has against the page as it is (`rules`: these alone): rule, what to do, and where."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())
    # Rules of WCAG 2.1 A and AA, and best practices but one: headings of the components' own dialogs skip levels.
    usual: dict[str, Any] = {"values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"], "type": "tag"}
    options: dict[str, Any] = {
        "runOnly": {"type": "rule", "values": list(rules)} if rules else usual,
        "rules": {} if rules else {"heading-order": {"enabled": False}},
        # What is well need not be listed, nor named by a selector.
        "resultTypes": ["violations"],
        "selectors": False,
    }
    found = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{one['id']}: {one['help']}\n" + "\n".join(f"    {node['html'][:300]}" for node in one["nodes"][:4])
        for one in found["violations"]
    ]


DEPTH = """(() => {
    const ask = window.fetch;
    let answered = 0;
    window.perdureDepth = 0;
    window.fetch = (...given) => {
        const depth = answered + 1;
        window.perdureDepth = Math.max(window.perdureDepth, depth);
        return ask(...given).then(answer => {
            answered = Math.max(answered, depth);
            return answer;
        });
    };
})()"""
"""Counts how many questions followed each other at most, each asked when the page had the answer to the one before. By
the clock it cannot be told: of two that are asked at once, one may be answered before the other is on its way."""


def look_at(page: Page, address: str, word: str) -> None:
    """What is true of every page, once it says `word`: it has asked the API twice in a row at most, axe-core has
    nothing against it, light and dark, and a telephone shows all of its width."""
    page.add_init_script(DEPTH)
    page.goto(address)
    expect(page.get_by_text(word).first).to_be_visible()
    assert page.evaluate("perdureDepth") in (1, 2)
    assert not (found := violations(page)), "\n".join(found)
    page.emulate_media(color_scheme="dark")
    expect(page.locator("body.awsui-dark-mode")).to_be_visible()
    assert not (found := violations(page, "color-contrast")), "\n".join(found)
    page.set_viewport_size({"width": 390, "height": 800})
    expect(page.get_by_text(word).first).to_be_visible()
    fits(page, 390)


def fits(page: Page, width: int) -> None:
    """The page is laid out anew after its window has another width; then none of it stands beyond."""
    page.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width)
