"""What tests of every kind share: the one local stack of a test session, and the table of what works."""

from __future__ import annotations

import fcntl
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from localcloud.nodes.launcher import remove_folder
from localcloud.stack.stack import StackPlace
from perdure import garbage
from tests import compatibility, lanes
from tests.documents.book import told, typed
from tests.patience import PATIENCE

PERDURE = Path(sys.executable).parent / "perdure"

os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"  # for moto alone too: it takes longer than most tests
# How long an example takes says how busy the machine is, not whether the code is right. The same examples are tried in
# every run, so that a failure is the fault of what has changed; `make fuzz` draws others.
settings.register_profile(
    "perdure",
    deadline=None,
    derandomize="PERDURE_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("perdure")


def pytest_configure(config: pytest.Config) -> None:
    if table := os.environ.get(compatibility.VARIABLE):
        config.pluginmanager.register(compatibility.CompatibilityRows(config.invocation_params.dir / table))


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> lanes.Lanes:
    config.option.loadscopereorder = False
    return lanes.Lanes(config, log)


@pytest.hookimpl(tryfirst=True)  # before -m and -k take tests away
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    compatibility.keep_everything(config, items)
    alone = {item.nodeid.partition("::")[0] for item in items if _on_the_stack(item)}
    if alone := {file for file in alone if lanes.lane(file) != "stack"}:
        raise pytest.UsageError(f"enter into the lane `stack` of tests/lanes.py: {', '.join(sorted(alone))}")
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: lanes.place(item.nodeid))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[Any]:
    """All that is loaded stays until the end: the garbage collection need not go through it, then or later."""
    garbage.none_while_loading()
    try:
        with _compiled_once():
            return (yield)
    finally:
        garbage.keep_what_is_loaded()


@contextmanager
def _compiled_once() -> Iterator[None]:
    """In a fresh clone compiling the tests takes longer than loading them. One worker does it while the others wait,
    which then find what it wrote."""
    with open(__file__) as ourselves:
        fcntl.flock(ourselves, fcntl.LOCK_EX)
        if sys.dont_write_bytecode or any(Path(__file__).parent.glob("unit/__pycache__/test_*-pytest-*")):
            fcntl.flock(ourselves, fcntl.LOCK_UN)
        yield


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """What a module leaves open fails that module. Without this, the garbage collection finds it in another's."""
    yield
    gc.collect()


def _on_the_stack(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and "stack" in item.fixturenames


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[str]:
    """Name of a running local stack, started for this session and gone after it, whatever happens in between.

    Its logs stay when a test failed. Its checkpoints are not rehearsed (a tenth of the CPU
    time); test_rehearsal.py turns that on.
    """
    name = f"test-{os.getpid()}"
    try:
        typed(told("README.md", "$perdure local up --detach"), PATIENCE, PERDURE_STACK=name)
        typed("perdure config set checkpoint.rehearsal=false", PATIENCE, PERDURE_STACK=name)
        yield name
    finally:
        typed(told("README.md", "$perdure local down"), PATIENCE, PERDURE_STACK=name)
        place = StackPlace(name)
        if not request.session.testsfailed:
            remove_folder(place.folder)
            place.lock_file.unlink()
