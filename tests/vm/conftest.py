"""The virtual machine for the tests in this folder: built at most once per machine, fresh for every call."""

from __future__ import annotations

import compileall
import json
import os
import re
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.compatibility import versions_here
from tests.vm.build import Built, _resolved, built

Call = Callable[..., Any]
COLUMN = "VM 6.1, cgroup v2"
_TOGETHER = 1500.0
"""Seconds for all checks that share a machine."""
_CLONE = Path(__file__).parents[2]
_PARTS = ("perdure", "worker_agent", "tests/integration", "tests/vm/inside", "tests/conftest.py", "tests/patience.py")


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _versions() -> dict[str, str]:
    """Of the machine's programs, by the packages that it was built from; CRIU is this machine's."""
    columns = {"linux-image-6": "kernel", "runc": "runc", "docker.io": "Docker"}
    found = {"CRIU": versions_here().get("CRIU", "")}
    for file, package in _resolved()[0].items():
        for start, column in columns.items():
            if package.startswith(start):
                found[column] = re.split(r"[+~-]", file.split("_")[1])[0]
    return found


class GuestFailed(Exception):
    """The program in the virtual machine raised; the message is its traceback."""


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest) -> Built:
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    return built(reporter.write_line)


@pytest.fixture(scope="session")
def clone_tar() -> bytes:
    """Our own code, for the guest. It is compiled here: there it would take half a minute. The guest's Python is
    the same version but for the last number."""
    content = BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for part in map(_CLONE.joinpath, _PARTS):
            compiled = (compileall.compile_dir if part.is_dir() else compileall.compile_file)(part, quiet=2)
            assert compiled, f"{part} cannot be compiled"
            archive.add(part, part.relative_to(_CLONE), filter=_wanted)
        # So that the agent finds its own version.
        version = b"Metadata-Version: 2.1\nName: perdure\nVersion: 0\n"
        entry = tarfile.TarInfo("perdure-0.dist-info/METADATA")
        entry.size = len(version)
        archive.addfile(entry, BytesIO(version))
    return content.getvalue()


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "-pytest-" in entry.name or entry.name.endswith((".img", ".log")) else entry


@dataclass
class Boots:
    """The machine as often as it is wanted."""

    machine: Built
    clone_tar: bytes
    shared: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What checks said that were run in one boot, by test."""

    def boot(self, entry: str, arguments: Sequence[object], limit_seconds: float) -> Any:
        """The function's result, from a fresh machine. GuestFailed if it raised."""
        begun, spent = time.monotonic(), _children_seconds()
        header = {"entry": f"tests.vm.inside.{entry}", "arguments": arguments}
        said = self.machine.qemu.run(self.machine.state, self.clone_tar, header, limit_seconds)
        for message in said:
            if "note" in message:
                print(json.dumps(message["note"]))
        used = _children_seconds() - spent
        print(f"{entry}: {time.monotonic() - begun:.1f} s in the virtual machine, {used:.1f} s of the processor")
        failures = [message["error"] for message in said if "error" in message]
        if failures:
            raise GuestFailed(failures[0])
        return next(message["result"] for message in said if "result" in message)


@pytest.fixture(scope="session")
def boots(machine: Built, clone_tar: bytes) -> Boots:
    return Boots(machine, clone_tar)


@pytest.fixture
def in_vm(boots: Boots, request: pytest.FixtureRequest) -> Call:
    """`in_vm("module:function", *arguments, limit_seconds=…)`: the function's result, from a machine of its own.

    The module lies in tests/vm/inside; arguments and result are JSON."""
    request.node.user_properties.append(("versions", _versions()))

    def call(entry: str, *arguments: object, limit_seconds: float = 900.0) -> Any:
        return boots.boot(entry, arguments, limit_seconds)

    return call


@pytest.fixture
def checked(boots: Boots, request: pytest.FixtureRequest) -> Any:
    """What the check of the test's mark `checks("module:function", *arguments)` returned.

    All such checks of the session run one after the other in one machine, when the first result is wanted: a boot, and
    the imports in an emulated machine, take as long as a small check."""
    request.node.user_properties.append(("versions", _versions()))
    if not boots.shared:
        wanted = {
            item.nodeid: mark.args for item in request.session.items if (mark := item.get_closest_marker("checks"))
        }
        checks = [(entry, arguments) for entry, *arguments in wanted.values()]
        boots.shared = dict(zip(wanted, boots.boot("several:run", [checks], _TOGETHER), strict=True))
    said = boots.shared[request.node.nodeid]
    print(f"{said['seconds']} s in the virtual machine")
    if "error" in said:
        raise GuestFailed(said["error"])
    return said["result"]
