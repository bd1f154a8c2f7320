"""What comments and documents refer to exists: promises by number, documents, their headings, files and tests."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROMISES = ROOT / "docs/promises.md"
DOCUMENT = re.compile(r"(?<![\w/.-])(docs/[\w./-]+\.(?:md|json|svg))(?:, \"([^\"]+)\")?")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def files(*kinds: str) -> list[Path]:
    """What git knows, of these kinds."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", *kinds], cwd=ROOT, capture_output=True)
    found = [ROOT / name for name in listed.stdout.decode().splitlines()]
    return [file for file in found if file.is_file() and file != Path(__file__)]


def headings(document: Path) -> list[str]:
    return [line.lstrip("#").strip() for line in document.read_text().splitlines() if line.startswith("#")]


SOURCES = files("*.py", "*.sh", "*.md", "Makefile", "*.yml", "*.toml")


def test_there_is_something_to_look_at() -> None:
    assert len(SOURCES) > 400 and PROMISES in SOURCES


def test_each_promise_that_is_named_is_written_down() -> None:
    known = {found[1] for line in headings(PROMISES) if (found := re.match(r"(\d+)\. ", line))}
    assert known == {str(number) for number in range(1, 9)}
    for file in SOURCES:
        for number in re.findall(r"\b[Pp]romise (\d+)", file.read_text()):
            assert number in known, f"{file}: there is no promise {number}"


def test_no_comment_leads_to_a_document_that_is_not_here() -> None:
    """The design that the project began with is not part of the repository."""
    for file in SOURCES:
        found = re.search(r"\bdesign(?:\.md)?, section|\bdesign section|facts/\w+\.md", file.read_text())
        assert found is None, f"{file}: {found and found[0]!r} leads nowhere; name a document and a heading of it"


def test_documents_and_headings_that_are_named_exist() -> None:
    for file in SOURCES:
        text = re.sub(r"\s*\n\s*(?:#\s?|//\s?)?", " ", file.read_text())
        for name, heading in DOCUMENT.findall(text):
            there = (ROOT / name).exists() or name.startswith("docs/compatibility.d")
            assert there, f"{file}: there is no {name}"
            if heading:
                assert heading in headings(ROOT / name), f"{file}: {name} has no heading {heading!r}"


@pytest.mark.parametrize("document", files("*.md"), ids=lambda file: str(file.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    base = ROOT / "docs" if document.parent.suffix == ".d" else document.parent
    for target in LINK.findall(document.read_text()):
        assert (base / target).exists(), f"{document}: {target}"


def test_each_promise_names_files_and_tests_that_exist() -> None:
    parts = re.split(r"^## ", PROMISES.read_text(), flags=re.MULTILINE)[1:]
    for part in parts:
        held, _, tested = part.partition("Tests:")
        places = re.findall(r"`([\w/]+\.py)`", held)
        tests = re.findall(r"`([\w/]+\.py)::(\w+)`", tested)
        assert places and tests, part.splitlines()[0]
        assert all((ROOT / place).is_file() for place in places), places
        for file, name in tests:
            assert re.search(rf"def {name}\b", (ROOT / file).read_text()), f"{file} has no test {name}"
