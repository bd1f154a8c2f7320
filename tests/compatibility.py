"""A pytest plugin: what happened to each row of docs/compatibility.md.

It owns the way from a `row` marker to docs/compatibility.json (scripts/compatibility.py renders that into the page).
It writes only when PERDURE_COMPATIBILITY names a file, as `make matrix` does:

* Every collected test with a `row` marker is entered, deselected ones too, as "not run" until it has run once; so a row
  without a run is visible. Tests that are gone leave the file when all of tests/ was collected.
* After each test its outcome is written at once, under a file lock: "pass", "fail" or "not run" with the reason of the
  skip; several runs of pytest may share the file, and one that dies keeps what it had.

Where a test ran is its column: `column=` of the marker; else the `column` of one of its parameters; else what the test
said while it ran, `request.node.user_properties.append(("column", "..."))`; else "runc". In the same way a test tells
("note", "words for the page") and ("versions", {"kernel": ..., "Docker": ...}), the real versions of its column.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE

VARIABLE = "PERDURE_COMPATIBILITY"
SECTIONS = (
    "Docker commands",
    "Limits and options",
    "Mounts",
    "Processes",
    "Files",
    "Memory",
    "Network",
    "Programs",
    "Kernels",
    "CPU and GPU",
)
DEFAULT_COLUMN = "runc"
PASS, FAIL, NOT_RUN = "pass", "fail", "not run"

Table = dict[str, Any]
"""The file: {"environments": {column: {program: version}}, "tests": {node id: {"rows": [[section, name, column], ...],
"outcome", "reason", "note", "date" (UTC), "seconds"}}}. Of a test that never ran only rows and outcome are there."""


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """The table in `path`, written back when the block ends without an error. Others wait meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)  # locked in place of the file, which is replaced
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        table = read_table(path)
        yield table
        new = path.with_name(f".{path.name}.new")
        new.write_text(json.dumps(table, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        new.replace(path)
    finally:
        os.close(folder)


def read_table(path: Path) -> Table:
    """The table in `path`; an empty one if there is no such file."""
    if not path.exists():
        return {"environments": {}, "tests": {}}
    table: Table = json.loads(path.read_text())
    return table


def rows_of(item: pytest.Item) -> list[list[str]]:
    """[section, name, column] for each `row` marker; the column is empty where only the run itself will tell.
    UsageError for a section that the page does not have."""
    callspec = getattr(item, "callspec", None)
    parameters = callspec.params.values() if callspec else ()
    told = next((str(value.column) for value in parameters if hasattr(value, "column")), "")
    rows = []
    for marker in item.iter_markers("row"):
        section, name = marker.args
        if section not in SECTIONS:
            raise pytest.UsageError(f"{item.nodeid}: no section {section!r}; there are {', '.join(SECTIONS)}")
        row = [section, name, marker.kwargs.get("column", told)]
        if row not in rows:
            rows.append(row)
    return rows


EVERYTHING = pytest.StashKey[dict[str, tuple[list[list[str]], bool]]]()
"""In the configuration of a run that collected all of tests/: the rows of each test that has some, and whether
`make test` runs it."""


def keep_everything(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note the rows of all tests, if all were collected and none is taken away yet."""
    asked = [config.invocation_params.dir / argument for argument in config.args]
    if asked == [Path(__file__).parent]:
        rows = {item.nodeid: (rows_of(item), item.get_closest_marker("matrix") is None) for item in items}
        config.stash[EVERYTHING] = {nodeid: found for nodeid, found in rows.items() if found[0]}


class CompatibilityRows:
    """Enters the rows of one run of pytest into the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, list[list[str]]] = {}
        self._reports: dict[str, list[pytest.TestReport]] = {}

    @pytest.hookimpl(tryfirst=True)  # before -m, -k and --deselect take tests away
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        self._rows = {item.nodeid: rows for item in items if (rows := rows_of(item))}
        asked = [session.config.invocation_params.dir / argument for argument in session.config.args]
        whole = asked == [Path(__file__).parent] and not session.testsfailed
        with open_table(self._path) as table:
            enter_rows(table, self._rows, whole=whole)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid not in self._rows:
            return
        reports = self._reports.setdefault(report.nodeid, [])
        reports.append(report)
        if report.when == "teardown":
            with open_table(self._path) as table:
                enter_run(table, report.nodeid, self._rows[report.nodeid], reports)


def enter_rows(table: Table, collected: dict[str, list[list[str]]], *, whole: bool) -> None:
    """Enters the rows of tests that were collected; outcomes of earlier runs stay. `whole`: these are all there are."""
    tests = table["tests"]
    for nodeid, rows in collected.items():
        test = tests.setdefault(nodeid, {"outcome": NOT_RUN})
        ran_in = next((column for _, _, column in test.get("rows", []) if column), "") if "date" in test else ""
        test["rows"] = [[section, name, column or ran_in] for section, name, column in rows]
    if whole:
        for nodeid in set(tests) - set(collected):
            del tests[nodeid]


def enter_run(table: Table, nodeid: str, rows: list[list[str]], reports: list[pytest.TestReport]) -> None:
    """Enters what happened to one test: the reports of its set-up, call and teardown."""
    properties = reports[-1].user_properties
    column = next((str(value) for name, value in properties if name == "column"), DEFAULT_COLUMN)
    outcome, reason = outcome_of(reports)
    test: dict[str, Any] = {
        "rows": [[section, name, told or column] for section, name, told in rows],
        "outcome": outcome,
        "date": datetime.now(UTC).date().isoformat(),
        "seconds": round(sum(report.duration for report in reports), 1),
    }
    if reason:
        test["reason"] = reason
    if notes := [str(value) for name, value in properties if name == "note"]:
        test["note"] = "; ".join(dict.fromkeys(notes))
    table["tests"][nodeid] = test
    for _, _, where in test["rows"]:
        environment = table["environments"].setdefault(where, {})
        if where == DEFAULT_COLUMN:
            environment.update(versions_here())
        for name, value in properties:
            if name == "versions" and isinstance(value, dict):
                environment.update(value)


def outcome_of(reports: list[pytest.TestReport]) -> tuple[str, str]:
    """The outcome, and the reason if the test did not run. An expected failure is a failure, with its reason."""
    for report in reports:
        if hasattr(report, "wasxfail"):
            return FAIL, report.wasxfail.removeprefix("reason: ")
        if report.failed:
            return FAIL, ""
    for report in reports:
        if report.skipped:
            words = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            return NOT_RUN, " ".join(words.removeprefix("Skipped: ").split())
    return (PASS, "") if any(report.when == "call" for report in reports) else (NOT_RUN, "")


def versions_here() -> dict[str, str]:
    """Kernel, runc and CRIU of this machine; what is missing is left out."""
    return {"kernel": platform.release().partition("-")[0]} | {
        name: version
        for name, command in (("runc", "runc"), ("CRIU", "/opt/perdure/criu/bin/criu"))
        if (version := program_version([command, "--version"]))
    }


def program_version(command: list[str]) -> str | None:
    """The first version number that the program prints, e.g. 1.1.5; None without one."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except OSError:
        return None
    found = re.search(r"\d+(\.\d+)+", done.stdout)
    return found[0] if found else None
