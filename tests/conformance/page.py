"""Writes docs/conformance.md from docs/conformance.json and the hand-written words of docs/conformance.d."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from tests.conformance.courses import Outcome, Result, Way
from tests.conformance.table import BARE, CONTAINER, PAGE, SCOPE, WORDS, Table

_SAID = {
    Outcome.PASS: "pass",
    Outcome.REFUSED: "refused",
    Outcome.LOST: "**not restored**",
    Outcome.FAIL: "**came back wrong**",
    Outcome.NOT_STARTED: "not run",
}


def write_page(table: Table) -> None:
    """The whole page."""
    parts = ["# Conformance: the tests of CRIU and of runc", _words("introduction"), _environment(table)]
    parts += [
        "## CRIU's tests",
        _words("zdtm"),
        _counts(table),
        *_shortcomings(table),
        _passed(table),
        _left_out(table),
    ]
    parts += ["## runc's tests", _words("runc"), _runc(table.content["runc"])]
    PAGE.write_text("\n\n".join(part for part in parts if part) + "\n")


def _words(name: str) -> str:
    path = WORDS / f"{name}.md"
    return path.read_text().strip() if path.exists() else ""


def _line(*cells: object) -> str:
    return "| " + " | ".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in cells) + " |"


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    return "\n".join([_line(*head), _line(*["---"] * len(head)), *(_line(*row) for row in rows)])


def _environment(table: Table) -> str:
    told = table.content["environment"]
    if not told:
        return "Not run yet."
    names = ("kernel", "runc", "CRIU", "day")
    said = _table(names, [tuple(told.get(name, "") for name in names)])
    if not told.get("users"):
        said += (
            "\n\nRoot on that machine lacks CAP_SYS_RESOURCE, without which CRIU cannot save processes of other users:"
            " all tests ran as root."
        )
    return said


def _counts(table: Table) -> str:
    every, inside = table.content["zdtm"], table.in_scope()
    verdicts = Counter(table.verdict(name).outcome for name in inside)
    short = [name for name in inside if table.verdict(name).outcome not in (Outcome.PASS, Outcome.NOT_STARTED)]
    alike = sum(_whose(table, name) == "CRIU" for name in short)
    rows = [
        ("built", len(every)),
        ("out of scope", len(every) - len(inside)),
        ("in scope", len(inside)),
        ("pass, with a notice and without", verdicts[Outcome.PASS]),
        ("refused by name; the job runs on, and its page says so", verdicts[Outcome.REFUSED]),
        ("saved and not restored; the job starts anew", verdicts[Outcome.LOST]),
        ("restored, and not as they were", verdicts[Outcome.FAIL]),
        ("of the last three: CRIU and runc alone fail too", alike),
    ]
    half = sum(_half(table, name) for name in inside)
    if half:
        rows.append(("pass a power loss, not run with a notice yet", half))
    if left := verdicts[Outcome.NOT_STARTED] - half:
        rows.append(("not run yet", left))
    return _table(("tests", "number"), rows)


def _half(table: Table, name: str) -> bool:
    """It passed a power loss, and a notice was not tried yet."""
    loss = table.result(name, Way.POWER_LOSS)
    return loss is not None and loss.outcome is Outcome.PASS and table.result(name, Way.NOTICE) is None


def _whose(table: Table, name: str) -> str:
    """Whose shortcoming it is: ours if CRIU and runc alone pass."""
    if table.verdict(name).outcome is Outcome.PASS:
        return ""
    bare = table.result(name, BARE)
    if bare is None or bare.outcome is Outcome.NOT_STARTED:
        return "not known"
    return "Perdure" if bare.outcome is Outcome.PASS else "CRIU"


def _shortcomings(table: Table) -> list[str]:
    parts = []
    for outcome, title in (
        (Outcome.REFUSED, "Refused by name"),
        (Outcome.LOST, "Saved and not restored"),
        (Outcome.FAIL, "Restored, and not as they were"),
    ):
        names = [name for name in table.in_scope() if table.verdict(name).outcome is outcome]
        if names:
            rows = [_shortcoming(table, name) for name in names]
            head = ("test", "power loss", "notice", "CRIU and runc alone", "whose", "what was said")
            parts.append(f"### {title}\n\n" + _table(head, rows))
    return parts


def _shortcoming(table: Table, name: str) -> tuple[object, ...]:
    ways = [_said(table.result(name, way)) for way in (Way.POWER_LOSS, Way.NOTICE)]
    kind = " (privileged)" if table.row(name).get(CONTAINER) else ""
    return (name + kind, *ways, _said(table.result(name, BARE)), _whose(table, name), table.verdict(name).words)


def _said(result: Result | None) -> str:
    return _SAID[result.outcome] if result else ""


def _passed(table: Table) -> str:
    inside = table.in_scope()
    passed = [name for name in inside if table.verdict(name).outcome is Outcome.PASS]
    privileged = [name for name in passed if table.row(name).get(CONTAINER)]
    lists = {
        "": [name for name in passed if name not in privileged],
        "In a privileged job: ": privileged,
        "Without a notice, and not tried with one yet: ": [name for name in inside if _half(table, name)],
        "Not run yet: ": [name for name in inside if table.verdict(name).words == "not run"],
    }
    return "\n\n".join(["### Pass", *(title + " ".join(names) for title, names in lists.items() if names)])


def _left_out(table: Table) -> str:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, row in sorted(table.content["zdtm"].items()):
        if SCOPE in row:
            reason, _, said = row[SCOPE].partition(": ")
            by_reason[reason].append(f"{name} ({said[-110:]})" if said else name)
    rows: list[tuple[object, ...]] = [
        (reason, len(names), ", ".join(names))
        for reason, names in sorted(by_reason.items(), key=lambda one: -len(one[1]))
    ]
    return "### Out of scope\n\n" + _table(("why", "number", "tests"), rows)


def _runc(found: dict[str, Any]) -> str:
    if not found:
        return "Not run yet."
    counts = Counter(_cell(row) for row in found.values())
    said = _table(("runc", "Perdure's runtime", "number"), [(*pair, number) for pair, number in sorted(counts.items())])
    differ = [(name, *_cell(row)) for name, row in sorted(found.items()) if len(set(_cell(row))) > 1]
    if differ:
        said += "\n\n### Where the two differ\n\n" + _table(("test", "runc", "Perdure's runtime"), differ)
    return said


def _cell(row: dict[str, str]) -> tuple[str, str]:
    return row.get("runc", "not run"), row.get("perdure-runtime", "not run")
