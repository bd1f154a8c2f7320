"""CRIU's own tests ("zdtm"): built from its source, each with what its description asks for.

A test is a program that makes something up, says that it is ready (its starter ends with 0), waits for SIGTERM, and
then looks whether all is as it was: the last line of its output says PASS. CRIU freezes and restores it in between.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.sources import SourceMissing, locked, unpacked

VERSION = (Path(__file__).parents[2] / "deploy/criu.version").read_text().strip()
BUILD_LIMIT = 1800
LEFT_OUT = {"conntracks", "route_rules"}
"""Two shell scripts with a protocol of their own, which CRIU's runner does not run either."""

_OURS = {"--tcp-established", "--file-locks", "--link-remap", "--manage-cgroups", "--force-irmap", "--ghost-limit"}
"""Options that a test asks of CRIU and that change nothing about what the job itself may expect."""
_OTHERS = {
    "--external": "mounts or devices that its runner lends from outside (--external)",
    "--ext-mount-map": "mounts that its runner lends from outside (--ext-mount-map)",
    "--ext-unix-sk": "unix sockets whose other end is outside (--ext-unix-sk)",
    "--join-ns": "a restore into somebody else's namespace (--join-ns)",
    "--cgroup-root": "a restore into other cgroups than its own (--cgroup-root)",
    "--cgroup-yard": "cgroups that its runner mounts (--cgroup-yard)",
    "--manage-cgroups=full": "cgroups that it makes on the machine (--manage-cgroups=full)",
    "--manage-cgroups=ignore": "cgroups that it makes on the machine (--manage-cgroups=ignore)",
    "--tcp-close": "connections inside the job that a restore closes (--tcp-close); ours live on",
    "--skip-in-flight": "connections under way that a dump drops (--skip-in-flight)",
    "--lsm-mount-context": "SELinux mount contexts (--lsm-mount-context)",
    "--enable-fs": "a file system that CRIU does not know (--enable-fs)",
    "--allow-uprobes": "uprobes left in the job's programs (--allow-uprobes)",
    "--network-lock": "how CRIU holds the network still (--network-lock)",
}
"""Options that are what the test is about, and that no job can ask of Perdure."""


@dataclass(frozen=True)
class Zdtm:
    """One test: how it is started, and its description (`.desc`)."""

    name: str
    arguments: list[str]
    flavours: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=list)
    arch: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    hook: list[str] = field(default_factory=list)
    """Moments at which CRIU's runner does something for it, such as `--pre-restore`."""
    readable: bool = True

    @property
    def as_root(self) -> bool:
        """It does not give up root: it is marked `suid`, or this machine's root has not the capability with which
        CRIU reads another user's limits."""
        return "suid" in self.flags or not may_save_users()

    @property
    def changes_the_machine(self) -> bool:
        """As root with all capabilities it would change the machine that all containers share."""
        return self.name in _MACHINE or self.name.startswith("cgroup")

    @property
    def out_of_scope(self) -> str:
        """Why its description alone takes it out; empty if it does not."""
        if not self.readable:
            return "its description is no plain data: it needs a device of CRIU's own test machine"
        if self.arch and platform.machine() not in self.arch:
            return f"for other processors ({' '.join(self.arch)})"
        for option in self.options:
            for known, about in _OTHERS.items():
                if option == known or option.startswith(f"{known}="):
                    return f"it is about {about}"
        if self.name in _EMPTY_HOOKS:
            return ""
        if moments := set(self.hook) & {"--post-start", "--pre-dump", "--pre-restore"}:
            return f"CRIU's runner has to do something for it outside ({' '.join(sorted(moments))})"
        return ""


_MACHINE = {"binfmt_misc", "vt", "console", "rtc"}
_EMPTY_HOOKS = {"inotify_irmap"}
"""Their hook does something only for a pre-dump, which a test need not go through."""


@functools.cache
def may_save_users() -> bool:
    """Whether root has CAP_SYS_RESOURCE here: without it CRIU can save processes of root alone."""
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:\t")[2].split()[0], 16) >> 24 & 1)


@functools.cache
def source() -> Path:
    """CRIU's source of the version that the product is tested with. Raises SourceMissing."""
    return unpacked("criu", VERSION, "sid")


def programs() -> Path:
    """The folder with the built tests."""
    return source() / "test/zdtm/static"


def build(names: Iterable[str] | None = None) -> list[str]:
    """Build these tests, or all; the names of those that are built. Raises SourceMissing without a compiler."""
    targets = sorted(names) if names is not None else []
    with locked(source() / "build.lock"):
        for folder, goals in (("lib", []), ("static", targets)):
            _make(source() / "test/zdtm" / folder, "-k", f"-j{os.cpu_count()}", *goals)
    built = [path.name for path in programs().iterdir() if path.suffix == "" and _is_program(path)]
    return sorted(set(built) - LEFT_OUT if names is None else set(built) & set(targets))


def _make(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["make", *words], cwd=folder, capture_output=True, text=True, timeout=BUILD_LIMIT, check=False
        )
    except OSError as problem:
        raise SourceMissing(f"make cannot be run: {problem}") from problem
    if "gcc: " in done.stderr and "not found" in done.stderr:
        raise SourceMissing("gcc is missing: run `make setup`")
    return done.stdout


def _is_program(path: Path) -> bool:
    if not (path.is_file() and os.access(path, os.X_OK)):
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def suite(names: Iterable[str] | None = None) -> list[Zdtm]:
    """These tests, or all, built and described, by name. Raises SourceMissing."""
    built = build(names)
    arguments = _arguments(built)
    return [_described(name, arguments[name]) for name in built if name in arguments]


def _arguments(names: list[str]) -> dict[str, list[str]]:
    """What CRIU's Makefile starts each test with. Files that it names lie in the test's own folder."""
    said = _make(programs(), "-k", "-n", *(f"{name}.pid" for name in names))
    lines = [line.split() for line in said.splitlines() if " --pidfile=" in line]
    return {words[0].removeprefix("./"): words[1:] for words in lines}


def _described(name: str, arguments: list[str]) -> Zdtm:
    path = programs() / f"{name}.desc"
    try:
        told = ast.literal_eval(path.read_text()) if path.exists() else {}
    except ValueError:
        return Zdtm(name, arguments, readable=False)
    words = {key: value.split() if isinstance(value, str) else list(value) for key, value in told.items()}
    return Zdtm(
        name,
        arguments,
        flavours=words.get("flavor", ["h", "ns", "uns"]),
        flags=words.get("flags", []),
        options=[word for key in ("opts", "dopts", "ropts") for word in words.get(key, [])],
        features=words.get("feature", []),
        arch=words.get("arch", []),
        needs=words.get("deps", []),
        hook=_hook(programs() / f"{name}.hook"),
    )


def _hook(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_text()
    moments = ("--post-start", "--pre-dump", "--pre-restore", "--post-restore", "--clean", "--fault")
    if "pycriu" in text and "ss" in text:  # lists sockets before the dump, reads the image after the restore
        return ["--post-restore"]
    return [moment for moment in moments if moment in text]


def as_json(tests: Iterable[Zdtm]) -> str:
    """What the group in the container reads."""
    return json.dumps([{"name": one.name, "arguments": one.arguments, "root": one.as_root} for one in tests])
