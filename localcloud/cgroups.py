"""One subtree of the machine's cgroup hierarchies: made, entered, frozen, killed and removed as one thing.

cgroup v1 (a hierarchy for each controller) and v2 (one tree) alike. Processes of ours live in leaves only, because v2
allows none in a group that hands controllers on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from localcloud.linux import mount_table
from perdure.dying import hurry, hurry_group
from perdure.waiting import until

_ENTER = 'while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit 71; shift; done; shift; exec "$@"'


def hierarchies() -> list[Path]:
    """Mount points of the hierarchies that take part: the freezer's (v1) or the single tree (v2) comes first.

    A v2 tree without controllers beside v1 ("hybrid") takes part too: runc puts containers there as well.
    """
    table = mount_table()
    first_only = {entry.device: entry.point for entry in reversed(table) if entry.kind in {"cgroup", "cgroup2"}}
    found = sorted(set(first_only.values()))
    freezer = [point for point in found if "freezer" in point.name.split(",")]
    unified = [point for point in found if (point / "cgroup.controllers").exists()]
    lead = (freezer or unified)[:1]
    return lead + [point for point in found if point not in lead]


@dataclass(frozen=True)
class Cgroup:
    """A path such as `/perdure/default/i-1`, the same in each hierarchy of `roots` (the first one can freeze)."""

    path: str
    roots: tuple[Path, ...]

    @classmethod
    def at(cls, path: str) -> Cgroup:
        """The group of that path on this machine. Raises OSError when no hierarchy can freeze."""
        roots = hierarchies()
        if not roots:
            raise OSError(errno.ENOENT, "no cgroup hierarchy with a freezer is mounted")
        return cls(path, tuple(roots))

    def below(self, name: str) -> Cgroup:
        """The group `name` (may hold slashes) inside this one."""
        return Cgroup(f"{self.path}/{name}", self.roots)

    @property
    def folders(self) -> list[Path]:
        """Where the group lies, made or not, one folder for each hierarchy."""
        return [root / self.path.lstrip("/") for root in self.roots]

    def make(self) -> None:
        """Make it, and its parents, in each hierarchy. Idempotent."""
        for root, folder in zip(self.roots, self.folders, strict=True):
            try:
                _make_below(root, folder)
            except FileNotFoundError:  # another stack just removed the empty parent
                _make_below(root, folder)

    def remove_empty_parents(self) -> None:
        """Remove those above it that hold nothing else."""
        for root, folder in zip(self.roots, self.folders, strict=True):
            with contextlib.suppress(OSError):  # in use, or another stack was faster
                for step in list(folder.relative_to(root).parents)[:-1]:
                    (root / step).rmdir()

    def enter(self, argv: list[str]) -> list[str]:
        """`argv` preceded by a shell that moves itself into this (made) group and becomes the command."""
        return ["/bin/sh", "-c", _ENTER, "enter-cgroup", *map(str, self.folders), "--", *argv]

    def pids(self) -> list[int]:
        """Processes in the group and below, as this process's pid namespace numbers them."""
        found: set[int] = set()
        for folder in self.folders:
            for group in _subtree(folder):
                with contextlib.suppress(OSError):  # removed meanwhile
                    found.update(int(word) for word in (group / "cgroup.procs").read_text().split())
        return sorted(found - {0})  # 0: a process outside our pid namespace

    def freeze(self, limit_seconds: float) -> bool:
        """Stop everything in it; whether all of it stood still within the limit."""
        folder = self.folders[0]
        name, value, seen = (
            ("freezer.state", "FROZEN", "FROZEN") if _is_v1(folder) else ("cgroup.freeze", "1", "frozen 1")
        )
        if not _write(folder / name, value):
            return False
        status = folder / (name if _is_v1(folder) else "cgroup.events")
        with contextlib.suppress(TimeoutError):
            return until(lambda: seen in status.read_text(), limit_seconds, 0.005)
        return False

    def thaw(self) -> None:
        """Let everything in it and below run on, whoever froze it. The killed die only then (cgroup v1)."""
        top = self.folders[0]
        for group in _subtree(top):
            _write(group / "freezer.state", "THAWED") if _is_v1(top) else _write(group / "cgroup.freeze", "0")

    def kill(self, limit_seconds: float = 120.0, spare: int = 0) -> None:
        """SIGKILL to all of it but process `spare`, thawed so that it dies. Raises TimeoutError naming who is left.

        Frozen beforehand, nothing in it runs another instruction (tried, 100 times on cgroup v1).
        """
        try:
            until(lambda: not self._kill_once(spare), limit_seconds, 0.01)
        except TimeoutError:
            left = [pid for pid in self.pids() if pid != spare]
            raise TimeoutError(
                f"processes {left[:10]} of cgroup {self.path} did not die in {limit_seconds:g} s"
            ) from None

    def _kill_once(self, spare: int) -> list[int]:
        """Who was left when it was done."""
        left = [pid for pid in self.pids() if pid != spare]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            hurry(pid)
        if left:
            self.thaw()
            for folder in self.folders:
                if any((folder / name).exists() for name in ("cpu.shares", "cpu.weight")):
                    hurry_group(folder)
        return left

    def remove(self, limit_seconds: float = 60.0) -> None:
        """Remove it and everything below, in each hierarchy. Idempotent. Raises OSError when something is in use.

        A group stays busy for a moment after its last process died.
        """
        deadline = time.monotonic() + limit_seconds
        for folder in self.folders:
            for group in reversed(list(_subtree(folder))):
                while True:
                    try:
                        group.rmdir()
                        break
                    except FileNotFoundError:
                        break
                    except OSError as problem:
                        if problem.errno != errno.EBUSY or time.monotonic() > deadline:
                            raise
                        time.sleep(0.02)


def oom_kills(group: Cgroup) -> int:
    """How many processes the memory limit of that group killed (0 when it cannot be told)."""
    for folder in group.folders:
        for name in ("memory.oom_control", "memory.events"):
            with contextlib.suppress(OSError):
                for line in (folder / name).read_text().splitlines():
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
    return 0


def _is_v1(folder: Path) -> bool:
    return (folder / "freezer.state").exists()


def _subtree(folder: Path) -> Iterator[Path]:
    """The group and all below it, parents first; nothing when it does not exist."""
    for name, _, _ in os.walk(folder):
        yield Path(name)


def _make_below(root: Path, folder: Path) -> None:
    for step in [*reversed(folder.relative_to(root).parents), folder.relative_to(root)][1:]:
        (root / step).mkdir(exist_ok=True)
        _inherit_cpuset(root / step)


def _inherit_cpuset(group: Path) -> None:
    # v1: a new cpuset is empty, and takes no process until it has processors and memory nodes.
    for name in ("cpuset.cpus", "cpuset.mems"):
        own, parents = group / name, group.parent / name
        if own.exists() and not (group / "cgroup.controllers").exists() and not own.read_text().strip():
            own.write_text(parents.read_text())


def _write(file: Path, value: str) -> bool:
    """Whether the group is (still) there and took the value."""
    try:
        file.write_text(value)
    except OSError:
        return False
    return True
