"""The table of docs/conformance.md: what was found, kept in docs/conformance.json, and the page made of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.compatibility import versions_here
from tests.conformance.courses import Outcome, Result, Results, Way
from tests.conformance.zdtm import Zdtm, may_save_users

ROOT = Path(__file__).resolve().parents[2]
FILE, PAGE, WORDS = ROOT / "docs/conformance.json", ROOT / "docs/conformance.md", ROOT / "docs/conformance.d"
BARE, SCOPE, CONTAINER = "bare CRIU", "out of scope", "container"
_KEEP_WORDS = 400


class Table:
    """What is known of each test. Every change is written at once, so that a run that dies keeps what it had."""

    def __init__(self, file: Path = FILE) -> None:
        self._file = file
        self.content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        for part in ("environment", "zdtm", "runc"):
            self.content.setdefault(part, {})

    def write(self) -> None:
        """To the file, by rename."""
        new = self._file.with_name(f".{self._file.name}.new")
        new.write_text(json.dumps(self.content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        new.replace(self._file)

    def stamp(self) -> None:
        """Versions of this machine, the day, and what it cannot do."""
        self.content["environment"] = {
            **versions_here(),
            "day": datetime.now(UTC).date().isoformat(),
            "users": may_save_users(),
        }
        self.write()

    def scope(self, tests: Iterable[Zdtm]) -> list[Zdtm]:
        """Enter why tests are out of scope by their description; those that are not."""
        for test in tests:
            row = self.row(test.name)
            row.pop(SCOPE, None)
            if test.out_of_scope:
                self.leave_out(test.name, test.out_of_scope)
        self.write()
        return [test for test in tests if not test.out_of_scope]

    def leave_out(self, name: str, reason: str) -> None:
        """This test says nothing about the product, and why."""
        self.content["zdtm"][name] = {SCOPE: reason}

    def row(self, name: str) -> dict[str, Any]:
        """What is known of a test of CRIU's."""
        row: dict[str, Any] = self.content["zdtm"].setdefault(name, {})
        return row

    def enter(self, results: Results, column: str) -> None:
        """What became of tests that way. What is refused without a notice is not run with one: an older result goes."""
        for name, result in results.items():
            if column == Way.POWER_LOSS and result.outcome is Outcome.REFUSED:
                self.row(name).pop(Way.NOTICE.value, None)
            self.row(name)[column] = {
                "outcome": result.outcome.value,
                **({"words": w} if (w := _plain(result.words)) else {}),
            }
        self.write()

    def enter_runc(self, found: dict[str, dict[str, str]]) -> None:
        """What runc's tests of a file did with each runtime."""
        files = {name.partition(": ")[0] for name in found}
        kept = {name: row for name, row in self.content["runc"].items() if name.partition(": ")[0] not in files}
        self.content["runc"] = kept | found
        self.write()

    def result(self, name: str, column: str) -> Result | None:
        """What became of a test that way, the last time."""
        found = self.row(name).get(column)
        return Result(Outcome(found["outcome"]), found.get("words", "")) if found else None

    def in_scope(self) -> list[str]:
        """Names of all tests that say something about the product."""
        return sorted(name for name, row in self.content["zdtm"].items() if SCOPE not in row)

    def verdict(self, name: str) -> Result:
        """The worse of the two ways. One that was refused without a notice needs no other."""
        loss, notice = (self.result(name, way) for way in (Way.POWER_LOSS, Way.NOTICE))
        if loss is not None and (notice is None or loss.outcome is not Outcome.PASS):
            return loss if loss.outcome is not Outcome.PASS else Result(Outcome.NOT_STARTED, "not run with a notice")
        return notice or Result(Outcome.NOT_STARTED, "not run")


def _plain(words: str) -> str:
    """Without ids, times and folders, which differ from run to run."""
    words = re.sub(r"; whole log: \S+( and [^\s)]+)?\)?\.?", "", words)
    words = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "…", words)
    words = re.sub(r"\bi-[0-9a-f]{17}\b", "i-…", words)
    words = re.sub(r"^\d\d:\d\d:\d\d\.\d+:\s+\d+: ", "", words, flags=re.MULTILINE)
    return " ".join(words.split())[-_KEEP_WORDS:]
