"""Renders docs/compatibility.md from docs/compatibility.json, what the last `make matrix` found.

    python scripts/compatibility.py [--check]

Hand-written words come from docs/compatibility.d: `introduction.md` stands first, `<section>.md` (e.g. `network.md`,
`docker-commands.md`) below the table of its section, `limits.md` last. --check writes nothing and fails if the page is
not what would be written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.compatibility import FAIL, NOT_RUN, PASS, SECTIONS, read_table  # noqa: E402

TABLE, PAGE, WORDS = ROOT / "docs/compatibility.json", ROOT / "docs/compatibility.md", ROOT / "docs/compatibility.d"
PROGRAMS = ("kernel", "runc", "CRIU", "Docker")
NO_TEST = "-"
COLUMN_ORDER = ("runc", "Docker of Debian", "Docker of trixie", "Docker of sid", "Docker", "VM")
"""Columns that begin so come first, in this order; the rest follows by name."""
Test = dict[str, Any]


def render(table: dict[str, Any], words: Path) -> str:
    """The whole page."""
    runs = [(section, name, column, test) for test in table["tests"].values() for section, name, column in test["rows"]]
    parts = ["# What works under Perdure", _written(words, "introduction")]
    newest = _last_runs(runs)
    parts += [_in_short(runs), _environments(table["environments"], newest)]
    for section in SECTIONS:
        cells: dict[str, dict[str, list[Test]]] = {}
        for of, name, column, test in runs:
            if of == section:
                cells.setdefault(name, {}).setdefault(column, []).append(test)
        parts.append(f"## {section}\n\n" + (_section(cells, newest) if cells else "No row yet."))
        parts.append(_written(words, section.lower().replace(" ", "-")))
    parts.append(_written(words, "limits"))
    return "\n\n".join(part for part in parts if part) + "\n"


def _last_runs(runs: Iterable[tuple[str, str, str, Test]]) -> dict[str, str]:
    """The date of the newest run in each environment."""
    newest: dict[str, str] = {}
    for _, _, column, test in runs:
        if column and test["outcome"] != NOT_RUN:
            newest[column] = max(newest.get(column, ""), test["date"])
    return newest


def _in_short(runs: Iterable[tuple[str, str, str, Test]]) -> str:
    """How many rows passed wherever they were tried, and which did not."""
    rows: dict[tuple[str, str], list[tuple[str, Test]]] = {}
    for section, name, column, test in runs:
        rows.setdefault((section, name), []).append((column, test))
    failed = {row: found for row, found in rows.items() if any(test["outcome"] == FAIL for _, test in found)}
    never = {row for row, found in rows.items() if all(test["outcome"] == NOT_RUN for _, test in found)}
    lines = [f"**In short**: {len(rows)} rows. {len(rows) - len(failed) - len(never)} passed wherever they were tried."]
    if failed:
        lines.append(f"{len(failed)} failed somewhere:\n")
        for (section, name), found in failed.items():
            where = dict.fromkeys(column for column, test in found if test["outcome"] == FAIL)
            lines.append(f"* {section}: {name} ({', '.join(where)})")
    if never:
        lines += [""] if failed else []
        lines.append(f"{len(never)} have not been run anywhere yet.")
    return "\n".join(lines)


def _environments(versions: dict[str, dict[str, str]], newest: dict[str, str]) -> str:
    if not newest:
        return ""
    lines = [_line("environment", *PROGRAMS, "last run"), _line(*["---"] * (len(PROGRAMS) + 2))]
    for column in _ordered(newest):
        of = versions.get(column, {})
        lines.append(_line(column, *(of.get(program, "") for program in PROGRAMS), newest[column]))
    return "\n".join(lines)


def _section(cells: dict[str, dict[str, list[Test]]], newest: dict[str, str]) -> str:
    columns = _ordered({column for row in cells.values() for column in row if column}) or ["runc"]
    lines = [_line("row", *columns), _line(*["---"] * (len(columns) + 1))]
    notes = []
    for name in sorted(cells, key=str.casefold):
        row = cells[name]
        ran = any(column for column in row)
        lines.append(_line(name, *(_cell(row.get(column), newest.get(column, ""), ran=ran) for column in columns)))
        for column in columns:
            for note in dict.fromkeys(test["note"] for test in row.get(column, []) if test.get("note")):
                notes.append(f"* {name}, {column}: {' '.join(note.split())}")
    return "\n".join(lines) + ("\n\n" + "\n".join(notes) if notes else "")


def _cell(tests: list[Test] | None, newest: str, *, ran: bool) -> str:
    """What the tests of one row found in one environment: the worst of them, and never more than was tried. A run
    older than the environment's newest says its date."""
    if tests is None:
        return NO_TEST if ran else NOT_RUN
    tried = [test for test in tests if test["outcome"] != NOT_RUN]
    failed = [test for test in tried if test["outcome"] == FAIL]
    missing = [test for test in tests if test["outcome"] == NOT_RUN]
    if not tried:
        return _with_remarks(NOT_RUN, missing)
    oldest = min(test["date"] for test in tried)
    date = oldest if oldest < newest else ""
    if failed:
        return _with_remarks("**fail**", failed, date)
    if missing:
        return _with_remarks(f"{PASS} in part, {len(missing)} of {len(tests)} not run", missing, date)
    return _with_remarks(PASS, [], date)


def _with_remarks(outcome: str, tests: list[Test], date: str = "") -> str:
    reason = next((test["reason"] for test in tests if test.get("reason")), "")
    remarks = ", ".join(remark for remark in (reason, date) if remark)
    return f"{outcome} ({remarks})" if remarks else outcome


def _ordered(columns: Iterable[str]) -> list[str]:
    def place(column: str) -> tuple[int, str]:
        return next((n for n, start in enumerate(COLUMN_ORDER) if column.startswith(start)), len(COLUMN_ORDER)), column

    return sorted(columns, key=place)


def _line(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def _written(words: Path, name: str) -> str:
    path = words / f"{name}.md"
    return path.read_text().strip() if path.exists() else ""


def main(arguments: list[str]) -> int:
    """Writes the page, or with --check compares it; the exit code."""
    page = render(read_table(TABLE), WORDS)
    if "--check" not in arguments:
        PAGE.write_text(page)
        return 0
    if PAGE.read_text() == page:
        return 0
    print("docs/compatibility.md is not what docs/compatibility.json renders to: run `make rows`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
