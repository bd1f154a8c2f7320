"""`make conformance`: CRIU's and runc's own tests through the product, and the table of docs/conformance.md.

    python -m tests.conformance [--only NAME ...] [--stage STAGE ...] [--missing] [--bats FILE ...] [--page]

It needs root. --only runs these tests of CRIU's, --missing those that have no result yet, --bats these files of runc's:
other rows stay as they are. --page writes the page alone.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from localcloud.stack.client import StackClient
from tests.conformance import zdtm
from tests.conformance.bare import run_bare
from tests.conformance.courses import Courses, Outcome, Results, Way, tell
from tests.conformance.own_stack import own_stack
from tests.conformance.page import write_page
from tests.conformance.runc_tests import run_runc_tests
from tests.conformance.sources import SourceMissing
from tests.conformance.table import BARE, CONTAINER, Table

EXCHANGES = Path("/var/tmp/perdure-conformance")
STAGES = ("scope", "power loss", "notice", "bare", "runc")


def main(arguments: list[str]) -> int:
    """The exit code: 1 when the sources cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these tests of CRIU's alone")
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=STAGES, help="these stages alone")
    parser.add_argument("--missing", action="store_true", help="only what has no result yet")
    parser.add_argument("--bats", nargs="+", default=(), metavar="FILE", help="these files of runc's alone (exec, tty)")
    parser.add_argument("--page", action="store_true", help="write docs/conformance.md alone")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # what was made is removed
    table = Table()
    try:
        if not asked.page:
            _run(table, asked)
    except SourceMissing as problem:
        tell(str(problem))
        return 1
    finally:
        write_page(table)
    return 0


def _run(table: Table, asked: argparse.Namespace) -> None:
    stages = asked.stage
    tests = zdtm.suite(asked.only)
    tell(f"{len(tests)} of CRIU's tests are built")
    table.stamp()
    if set(stages) & {"scope", "power loss", "notice"}:
        with own_stack() as client:
            _through_the_product(table, client, tests, stages, missing=asked.missing)
    if "bare" in stages:
        wanted = [test for test in tests if _asks_for_bare(table, test.name)]
        tell(f"{len(wanted)} of them with CRIU and runc alone")
        table.enter(run_bare(wanted, privileged=lambda name: _privileged(table, name)), BARE)
    if "runc" in stages and asked.only is None:
        run_runc_tests(table.enter_runc, asked.bats)


def _through_the_product(
    table: Table, client: StackClient, tests: list[zdtm.Zdtm], stages: list[str], *, missing: bool
) -> None:
    ordinary = Courses(client, EXCHANGES)
    privileged = Courses(client, EXCHANGES, privileged=True)
    if "scope" in stages:
        _find_scope(table, ordinary, privileged, table.scope(tests))
    for way in (Way.POWER_LOSS, Way.NOTICE):
        for courses, kind in ((ordinary, False), (privileged, True)):
            if way.value in stages:
                wanted = [test for test in tests if _wanted(table, test.name, way, kind)]
                _go(table, courses, [test for test in wanted if not (missing and table.result(test.name, way))], way)


def _go(table: Table, courses: Courses, tests: list[zdtm.Zdtm], way: Way) -> None:
    """Tests that will hardly come back in company get a job of their own at once: those that did not the last time, and
    those of which CRIU's authors say so."""
    tell(f"{way}: {len(tests)} {'privileged' if courses.privileged else 'ordinary'} tests")
    last = {test.name: table.result(test.name, way) for test in tests}
    failed = {name for name, known in last.items() if known and known.outcome is not Outcome.PASS}
    alone = failed | {test.name for test in tests if {"crfail", "noauto"} & set(test.flags)}
    size = 5 if courses.privileged else 12
    courses.run(tests, way, size=size, alone=alone, done=lambda found: _came(table, found, way.value))


def _wanted(table: Table, name: str, way: Way, privileged: bool) -> bool:
    """In scope, of that kind, and not known to be refused: what is refused without a notice is refused with one."""
    if name not in table.in_scope() or _privileged(table, name) is not privileged:
        return False
    return way is Way.POWER_LOSS or _saved(table, name)


def _find_scope(table: Table, ordinary: Courses, privileged: Courses, tests: list[zdtm.Zdtm]) -> None:
    """A test is in scope if it passes in a container to which nothing happens: an ordinary one, else a privileged."""
    tell(f"{len(tests)} tests in containers to which nothing happens")
    first = ordinary.run(tests, Way.NOTHING, size=40)
    rest = [test for test in tests if first[test.name].outcome is not Outcome.PASS]
    tell(f"{len(rest)} of them do not pass in an ordinary container")
    second = privileged.run([test for test in rest if not test.changes_the_machine], Way.NOTHING, size=40)
    for test in tests:
        found = second.get(test.name, first[test.name])
        if first[test.name].outcome is Outcome.PASS:
            table.row(test.name).pop(CONTAINER, None)
        elif found.outcome is Outcome.PASS:
            table.row(test.name)[CONTAINER] = "privileged"
        else:
            table.leave_out(test.name, f"it does not pass in a container: {found.words}")
    table.write()


def _came(table: Table, found: Results, column: str) -> None:
    table.enter(found, column)
    for name, result in sorted(found.items()):
        if result.outcome is not Outcome.PASS:
            tell(f"  {result.outcome}: {name}: {' '.join(result.words.split())[-200:]}")


def _privileged(table: Table, name: str) -> bool:
    return table.row(name).get(CONTAINER) == "privileged"


def _saved(table: Table, name: str) -> bool:
    known = table.result(name, Way.POWER_LOSS)
    return known is not None and known.outcome is not Outcome.REFUSED


def _asks_for_bare(table: Table, name: str) -> bool:
    fell_short = (Outcome.REFUSED, Outcome.LOST, Outcome.FAIL)
    return name in set(table.in_scope()) and table.verdict(name).outcome in fell_short


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
