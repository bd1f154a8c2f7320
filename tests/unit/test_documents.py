"""The documentation: it builds without a dead link, and its reference has everything in it."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from scripts.docs.reference import pages
from scripts.docs.site import on_page_markdown
from tests.documents.book import ROOT, told, typed
from tests.patience import PATIENCE


def test_the_site_builds_without_a_dead_link() -> None:
    [site] = typed(told("README.md", "make docs"), PATIENCE).splitlines()
    site_folder = (ROOT / site).parent
    texts = [path.read_text() for path in site_folder.rglob("*.html")]
    asked = {host for text in texts for host in re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"', text)}
    assert not asked, "pages ask no other server for anything"


def test_what_is_named_is_tested() -> None:
    said = typed(told("CONTRIBUTING.md", 'make some TESTS="tests/unit/test_ledger.py -k sums"'), PATIENCE)
    assert re.search(r"\b[1-9]\d* passed", said), said


def test_the_console_is_built() -> None:
    typed(told("docs/console.md", "make console"), PATIENCE)
    assert (ROOT / "api/static/index.html").is_file()


def test_links_to_the_source_are_looked_after(caplog: pytest.LogCaptureFixture) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="install.md"))
    text = "[deploy/iam](../deploy/iam), [a file](../Makefile), [gone](../deploy/nothing)"
    assert on_page_markdown(text, page=page) == "`deploy/iam`, a file (`Makefile`), gone (`deploy/nothing`)"
    assert "deploy/nothing, which is not there" in caplog.text


def test_the_reference_tells_of_everything() -> None:
    found = pages()
    empty = [line for line in found["reference/settings.md"].splitlines() if re.match(r"\| `[^|]+` \|\s+\|", line)]
    empty += [
        line for line in found["reference/configuration.md"].splitlines() if re.match(r"\| `[^|]+` \|\s+\|", line)
    ]
    assert not empty, "settings without a word about them:\n" + "\n".join(empty)
    assert "| GET | `/api/v1/jobs` |" in found["reference/api.md"]
    assert "perdure doctor" in found["reference/commands.md"] and "`--queue`" in found["reference/commands.md"]
