"""How the tests are spread over pytest's workers (`pytest -n N`; `make test` does it).

A lane is what stays together, in order, on one worker: a file, so that what a module sets up is set up once. Files that
share the session's local stack are one lane, so that one stack is started. Every worker takes the next lane when it has
come to the end of its own. Long lanes begin first, so that no worker is left alone with one at the end.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

TOGETHER = {
    "browser": (
        "tests/browser/test_configuration_pages.py",
        "tests/browser/test_job.py",
        "tests/browser/test_jobs.py",
        "tests/browser/test_nodes_and_volumes.py",
        "tests/browser/test_pages.py",
        "tests/browser/test_people.py",
        "tests/browser/test_server.py",
    ),
    "stack": (
        "tests/browser/test_reclaim.py",
        "tests/e2e/test_documents.py",
        "tests/e2e/test_identity.py",
        "tests/e2e/test_kept_volumes.py",
        "tests/e2e/test_lost_checkpoint.py",
        "tests/e2e/test_neighbours.py",
        "tests/e2e/test_rehearsal.py",
        "tests/e2e/test_resume.py",
        "tests/e2e/test_spine.py",
        "tests/e2e/test_ten_kinds.py",
    ),
    "vm": ("tests/vm",),
    "release": ("tests/release",),
}
"""Lanes of several files or folders. The browser's files share a browser and a server. The virtual machine is one,
because its first use on a machine builds it, and the others would only wait for that. So is the release."""

FIRST = ("stack", "browser", "tests/conformance", "tests/e2e", "release", "vm", "tests/integration", "tests/workflows")
"""Lanes, files and folders in the order in which they begin; what is not here comes last, in pytest's own order."""


def lane(nodeid: str) -> str:
    """The lane of a test."""
    file = nodeid.partition("::")[0]
    return next((name for name, members in TOGETHER.items() if _named(file, members)), file)


def place(nodeid: str) -> int:
    """How many entries of FIRST come before this test's lane; of several that name it, the longest counts."""
    named = _named(lane(nodeid), FIRST)
    return FIRST.index(max(named, key=len)) if named else len(FIRST)


def _named(file: str, names: tuple[str, ...]) -> list[str]:
    """Those of the names that are the file's or of a folder that it is in."""
    return [name for name in names if name in {file, *map(str, PurePosixPath(file).parents)}]


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """xdist's scheduler for groups of tests, with lanes as groups, in the order in which pytest collected them."""

    def _split_scope(self, nodeid: str) -> str:
        return lane(nodeid)
