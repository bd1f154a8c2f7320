"""The table of what works: from `row` markers through runs of pytest to the page, and the committed page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.compatibility import PAGE, TABLE, WORDS, render
from tests.compatibility import EVERYTHING, SECTIONS, VARIABLE, open_table, read_table
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]

CONFTEST = """
import os
from pathlib import Path
from tests.compatibility import CompatibilityRows

def pytest_configure(config):
    config.addinivalue_line("markers", "row: x")
    config.addinivalue_line("markers", "matrix: x")
    config.pluginmanager.register(CompatibilityRows(Path(os.environ["PERDURE_COMPATIBILITY"])))
"""

ROWS = """
from types import SimpleNamespace
import pytest

@pytest.mark.row("Files", "a fifo")
def test_passes():
    pass

@pytest.mark.row("Files", "a lock")
def test_fails():
    assert 1 == 2

@pytest.fixture
def broken():
    yield
    raise RuntimeError

@pytest.mark.row("Files", "a lease")
def test_fails_afterwards(broken):
    pass

@pytest.mark.row("Memory", "huge pages")
def test_skips():
    pytest.skip("no huge pages | here")

@pytest.mark.matrix
@pytest.mark.row("Memory", "memfd")
def test_not_selected():
    pass

@pytest.mark.row("Kernels", "cgroup v2", column="VM")
def test_elsewhere(request):
    request.node.user_properties.append(("note", "one\\nline"))
    request.node.user_properties.append(("versions", {"kernel": "6.12.1"}))

@pytest.mark.row("Network", "bridge")
def test_says_where(request):
    request.node.user_properties.append(("column", "Docker 20.10.24"))

@pytest.mark.row("Network", "host")
@pytest.mark.parametrize("release", [SimpleNamespace(column="Docker 26"), SimpleNamespace(column="Docker 28")])
def test_in_each(release):
    if release.column == "Docker 28":
        pytest.skip("not to be had")
"""


def pytest_in(folder: Path, *arguments: str) -> int:
    environment = os.environ | {VARIABLE: str(folder / "table.json"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    ).returncode


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_rows.py").write_text(ROWS)
    assert pytest_in(folder, "-m", "row and not matrix") == 1
    return read_table(folder / "table.json")


def line(page: str, name: str) -> str:
    return next(line for line in page.splitlines() if line.startswith(f"| {name} |"))


def test_each_outcome_is_told(found: dict[str, Any], tmp_path: Path) -> None:
    page = render(found, tmp_path)
    assert "**In short**: 8 rows. 4 passed wherever they were tried.\n2 failed somewhere:\n\n* Files: a lock" in page
    assert "2 have not been run anywhere yet." in page
    assert line(page, "a fifo") == "| a fifo | pass |"
    assert line(page, "a lock") == "| a lock | **fail** |"
    assert line(page, "a lease") == "| a lease | **fail** |"
    assert line(page, "huge pages") == r"| huge pages | not run (no huge pages \| here) |"
    assert line(page, "memfd") == "| memfd | not run |"


def test_each_environment_has_a_column_with_its_own_versions(found: dict[str, Any], tmp_path: Path) -> None:
    page = render(found, tmp_path)
    assert "| row | Docker 20.10.24 | Docker 26 | Docker 28 |" in page
    assert line(page, "host") == "| host | - | pass | not run (not to be had) |"
    assert line(page, "bridge") == "| bridge | pass | - | - |"
    assert line(page, "VM").startswith("| VM | 6.12.1 |  |  |  |")
    kernel = os.uname().release.partition("-")[0]
    assert f"| {kernel} |" in line(page, "runc")
    assert kernel not in line(page, "VM")
    assert "* cgroup v2, VM: one line" in page


def test_a_test_that_is_not_run_again_keeps_its_last_outcome_and_one_that_is_gone_leaves(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    with open_table(table) as empty:
        empty["environments"]["VM"] = {"kernel": "6.1"}
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_rows.py").write_text(ROWS)
    assert pytest_in(tmp_path, "-m", "row and not matrix") == 1
    before = read_table(table)
    assert pytest_in(tmp_path, "-k", "elsewhere") == 0
    after = read_table(table)
    assert after["tests"] == before["tests"] | {
        nodeid: after["tests"][nodeid] for nodeid in after["tests"] if "elsewhere" in nodeid
    }


def test_an_older_run_says_its_date_and_a_half_run_row_is_no_pass(tmp_path: Path) -> None:
    def ran(name: str, outcome: str, date: str, **more: str) -> dict[str, Any]:
        return {"rows": [["Files", name, "runc"]], "outcome": outcome, "date": date} | more

    tests = {
        "a": ran("old", "pass", "2026-01-01"),
        "b": ran("half", "pass", "2026-01-02"),
        "c": ran("half", "not run", "2026-01-02", reason="no root"),
        "d": ran("bad", "pass", "2026-01-02"),
        "e": ran("bad", "fail", "2026-01-02", reason="known"),
    }
    page = render({"environments": {}, "tests": tests}, tmp_path)
    assert line(page, "old") == "| old | pass (2026-01-01) |"
    assert line(page, "half") == "| half | pass in part, 1 of 2 not run (no root) |"
    assert line(page, "bad") == "| bad | **fail** (known) |"


def test_the_committed_page_is_what_the_committed_table_renders_to() -> None:
    assert PAGE.read_text() == render(read_table(TABLE), WORDS), "run `make rows`"


@pytest.fixture(scope="module")
def collected(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], set[str]]:
    """The table of all tests with rows, and those of them that `make test` runs. As this very run collected them, if it
    collected all. Else anew: unit and workflow tests have no rows, and leaving them out saves most of the time."""
    if everything := request.config.stash.get(EVERYTHING, None):
        rows = {nodeid: {"rows": found} for nodeid, (found, _) in everything.items()}
        return {"tests": rows}, {nodeid for nodeid, (_, usual) in everything.items() if usual}
    folders = [str(folder) for folder in sorted((ROOT / "tests").iterdir()) if folder.name not in ("unit", "workflows")]
    table = tmp_path_factory.mktemp("collected") / "table.json"
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", "not matrix"]
    done = subprocess.run(
        [*collect, *folders],
        cwd=ROOT,
        env=os.environ | {VARIABLE: str(table)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    found = read_table(table)
    return found, set(done.stdout.splitlines()) & set(found["tests"])


def test_every_row_of_a_test_is_in_the_committed_table(collected: tuple[dict[str, Any], set[str]]) -> None:
    def rows(table: dict[str, Any]) -> set[tuple[str, str, str]]:
        return {(nodeid, *row[:2]) for nodeid, test in table["tests"].items() for row in test["rows"]}

    assert rows(collected[0]) == rows(read_table(TABLE)), "run `make rows`"


def test_every_section_has_a_row_that_make_test_runs(collected: tuple[dict[str, Any], set[str]]) -> None:
    table, short = collected
    assert {section for nodeid in short for section, _, _ in table["tests"][nodeid]["rows"]} == set(SECTIONS)
