"""The documentation: it builds without a dead link, and what it tells people to type exists."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scripts.docs.reference import command, pages
from scripts.docs.site import on_page_markdown
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_CALL = re.compile(r"(?:^|`|\s|\()(?:\$perdure|\.venv/bin/perdure|/bin/perdure|perdure) ([a-z][^`\n#|]*)", re.MULTILINE)


def test_the_site_builds_without_a_dead_link(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    texts = [path.read_text() for path in (tmp_path / "site").rglob("*.html")]
    asked = {host for text in texts for host in re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"', text)}
    assert not asked, "pages ask no other server for anything"


def test_links_to_the_source_are_looked_after(caplog: pytest.LogCaptureFixture) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="install.md"))
    text = "[deploy/iam](../deploy/iam), [a file](../Makefile), [gone](../deploy/nothing)"
    assert on_page_markdown(text, page=page) == "`deploy/iam`, a file (`Makefile`), gone (`deploy/nothing`)"
    assert "deploy/nothing, which is not there" in caplog.text


def calls() -> Iterator[tuple[str, str]]:
    """(page, what follows `perdure`) of everything in code."""
    for page in PAGES:
        text = page.read_text()
        for code in re.findall(r"^    .+$|`[^`\n]+`|^\S.*\bperdure .+$", text, re.MULTILINE):
            if "`" in code or code.startswith("    ") or code.startswith(("$perdure", "perdure ", "AWS_")):
                yield from ((page.name, found) for found in _CALL.findall(code))


def unknown(words: list[str]) -> str:
    """The first word or option that the command does not have; "" when all are there."""
    found: Any = command()
    while words and hasattr(found, "commands"):
        word = words.pop(0)
        if word.startswith("-"):
            return "" if any(word in one.opts for one in found.params) else word
        if word not in found.commands:
            return word
        found = found.commands[word]
    options = {name for one in found.params for name in [*one.opts, *one.secondary_opts]} | {"--help"}
    for word in words:
        if word == "--":
            break
        name = word.partition("=")[0]
        if name.startswith("-") and name not in options:
            return word
    return ""


def test_every_command_that_is_told_exists() -> None:
    seen, wrong = 0, []
    for page, text in calls():
        text = re.split(r"[;&>]|\s\|\s|\)$|\s{3,}", text.strip().rstrip(".,:)]"))[0]
        several = re.split(r",? \| ", text)[0].replace("[", " ").replace("]", " ")
        try:
            words = shlex.split(several)
        except ValueError:
            continue
        seen += 1
        if bad := unknown([word for word in words if word not in {"|", "…"}]):
            wrong.append(f"{page}: perdure {text}: {bad}")
    assert seen > 60, "the commands are found"
    assert not wrong, "\n".join(wrong)


def test_the_reference_tells_of_everything() -> None:
    found = pages()
    empty = [line for line in found["reference/settings.md"].splitlines() if re.match(r"\| `[^|]+` \|\s+\|", line)]
    empty += [
        line for line in found["reference/configuration.md"].splitlines() if re.match(r"\| `[^|]+` \|\s+\|", line)
    ]
    assert not empty, "settings without a word about them:\n" + "\n".join(empty)
    assert "| GET | `/api/v1/jobs` |" in found["reference/api.md"]
    assert "perdure doctor" in found["reference/commands.md"] and "`--queue`" in found["reference/commands.md"]
