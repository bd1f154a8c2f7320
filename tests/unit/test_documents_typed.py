"""Every command that a document tells people to type is typed by a test, as it stands there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents import book
from tests.documents.book import Command, block, chosen, commands, filled, pages, plain, told

TESTS = Path(__file__).parents[1]

_MEASURES = "It measures, for which the machine must be quiet."
NOBODY = {
    "make test": "It is what runs this test.",
    "make setup": "`make test` begins with it.",
    "make unit": "`make test` runs the same tests; `make some` is typed.",
    "make lint": "`make test` runs its two halves.",
    "make format": "It would change the clone under test; `make test` finds what it would change.",
    "make fuzz": "9 minutes. Its fuzzer is typed; its tests run with fewer examples.",
    "make matrix": "An hour, of all tests.",
    "make docker-matrix": "A part of `make matrix`.",
    "make conformance": "An hour; tests/conformance/test_zdtm.py runs some of each kind.",
    "make conformance CONFORMANCE=--missing": "As `make conformance`.",
    "make rows": "It writes into the clone under test; tests/unit/test_compatibility.py reads what it wrote.",
    "make demo": "`make setup`, then `perdure demo`, which is typed.",
    "perdure demo --scenario cross-zone": "On EBS as slow as AWS says; docs/zone-changes.md has what it said by hand.",
    "perdure demo [--engine docker|runc] [--reclaims N] [--store s3|DIR] [--scenario cross-zone] [--json] [--keep]": (
        "Tests type all of these but `--scenario` and `--keep`."
    ),
    "make bundle": "Minutes; tests/release makes a release by the same program and installs it.",
    'make bundle BUNDLE="--architecture aarch64"': "As `make bundle`, for a machine that nobody here has.",
    "make release-check": "A quarter of an hour: `make bundle`, and tests/release with its virtual machine.",
    "make requirements": "It needs an index of packages, and changes the pins under test.",
    "make openapi": "It writes into the clone under test; tests/unit/test_console_types.py compares the same.",
    "make screenshots": "It writes pictures into docs/; tests/browser looks at the same pages.",
    "make sequences": "200 lives; tests/integration/test_volume_sequences.py plays ten of them.",
    "make bench": _MEASURES,
    "python -m bench.neighbour 3": _MEASURES,
    "python -m bench.rehearsal": _MEASURES,
    "python -m bench.lifecycle": _MEASURES,
    "python -m bench.lifecycle --week": _MEASURES,
    "python -m worker_agent": "systemd does on an instance; tests/integration/agent_bed.py does, too.",
    "ssh -L PORT:127.0.0.1:PORT HOST": "It needs a second machine.",
    "pip install --upgrade": "It is what a job may do.",
    "curl -k https://…/install-pagent | bash": "It is MMBatch's, which another line replaces.",
    "aws service-quotas get-service-quota": "moto knows no quotas of EC2.",
    "aws ssm start-session": "It needs AWS's own plugin, and an instance that speaks to Systems Manager.",
    "curl -k": "The document says never to type it.",
    "export PERDURE_TEST_EC2=yes AWS_REGION=us-east-1 PERDURE_TEST_ZONE=us-east-1a PERDURE_TEST_IMAGE=ami-…": (
        "It is for a real account."
    ),
    ".venv/bin/python -m pytest -p no:xdist tests/integration/test_volumes_on_moto.py": (
        "So is this, with what was set before it. Without it these are tests like others."
    ),
    "terraform -chdir=deploy/terraform apply": "Terraform's AWS provider cannot be had where tests run.",
    "terraform validate": "The same.",
}
"""Commands that no test types, and why."""


def test_every_command_is_typed() -> None:
    taken = [one for path in sorted(TESTS.rglob("*.py")) for one in _taken(path)]
    lacking = {f"{one.page}: {one.text}" for page in pages() for one in commands(page) if not _is_typed(one, taken)}
    excused = {line for line in lacking if line.partition(": ")[2] in NOBODY}
    wrong = sorted(lacking - excused)
    assert not wrong, "no test takes these by `block` or `told` (tests/documents/book.py):\n" + "\n".join(wrong)
    stale = sorted(NOBODY.keys() - {line.partition(": ")[2] for line in excused})
    assert not stale, "these are typed, or no document tells them:\n" + "\n".join(stale)


def test_a_page_is_read_as_people_read_it() -> None:
    assert block("docs/quickstart.md", "$perdure jobs")[0] == "$perdure jobs"
    assert told("docs/account.md", "AWS_PROFILE=genomics perdure assess"), "a line of a block, without its comment"
    with pytest.raises(ValueError, match="0 blocks"):
        block("docs/quickstart.md", "$perdure nothing")
    with pytest.raises(ValueError, match="does not say"):
        told("README.md", "make nothing")


def test_a_choice_is_one_of_the_command() -> None:
    begin = "perdure local reclaim --job ID"
    assert chosen("README.md", begin, "--node ID --no-notice") == "perdure local reclaim --node ID --no-notice"
    assert chosen("README.md", "perdure local wait ID", "--json") == "perdure local wait ID --json"
    with pytest.raises(ValueError, match="has no --now"):
        chosen("README.md", begin, "--node ID --now")


def test_only_what_stands_for_something_is_replaced() -> None:
    assert filled("perdure job ID --IDS $ID", {"ID": "7"}) == "perdure job 7 --IDS $ID"
    with pytest.raises(ValueError, match="no NAME"):
        filled("perdure job ID", {"NAME": "7"})


def _is_typed(one: Command, taken: list[Command]) -> bool:
    """A line of a block is typed word for word. Inline code often does no more than name a command: it is typed when
    the same command is, and each of these options once. A group (`perdure local`) is when one of its commands is."""
    if any(one.text == other.text for other in taken) and not one.synopsis:
        return True
    same = [other for other in taken if other.words[: len(one.words)] == one.words]
    return one.inline and bool(same) and one.options <= frozenset().union(*(other.options for other in same))


def _taken(path: Path) -> Iterator[Command]:
    """The commands that this file takes from documents; it is read, not run."""
    text = path.read_text()
    if "tests.documents.book" not in text or path == Path(__file__):
        return
    tree = ast.parse(text)
    names = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "tests.documents.book"
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            take = names.get(node.func.id)
            if take in {"block", "told", "chosen"}:
                page, *rest = (_constant(argument, path) for argument in node.args)
                lines = getattr(book, take)(page, *rest)
                yield from (Command(page, plain(line), inline=False) for line in book.logical(_text(lines)))


def _text(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "\n".join(lines)


def _constant(argument: ast.expr, path: Path) -> str:
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    raise AssertionError(f"{path}:{argument.lineno}: name the page and the text here, so that they can be found unrun")
