"""The freezer of one container's cgroup, version 1 or 2: is it frozen, let it go, who is in it, end all of it.

Freezing itself is `runc pause` (it knows how to retry a cgroup that stays FREEZING). Letting go is a plain write:
it must work when runc, CRIU or an earlier agent were killed halfway.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from perdure.domain.errors import FreezerFailed
from perdure.dying import hurry
from perdure.image.mounts import read_mounts
from worker_agent import proc

_POLL = 0.005


@dataclass(frozen=True)
class Freezer:
    """Where a container's processes are frozen and thawed. `unified`: cgroup version 2."""

    path: Path
    unified: bool

    @classmethod
    def of_process(cls, pid: int) -> Freezer:
        """The freezer that `pid` is in. FreezerFailed if the process or the hierarchy is not there."""
        try:
            lines = proc.lines(f"/proc/{pid}/cgroup")
        except OSError as error:
            raise FreezerFailed(f"process {pid} is gone: its cgroup cannot be read") from error
        places = {fields[1]: fields[2] for fields in (line.split(":", 2) for line in lines)}
        old = next((path for names, path in places.items() if "freezer" in names.split(",")), None)
        for mount in read_mounts():
            if old is not None and mount.kind == "cgroup" and "freezer" in mount.options.split(","):
                return cls(Path(mount.point + old), unified=False)
            if old is None and mount.kind == "cgroup2" and "" in places:
                return cls(Path(mount.point + places[""]), unified=True)
        raise FreezerFailed("no freezer hierarchy is mounted: mount cgroup version 1's freezer, or version 2")

    @classmethod
    def of_cgroup(cls, path: str) -> Freezer:
        """The freezer of a cgroup named as in config.json (`/a/b`), on the same hierarchy as this process."""
        own = cls.of_process(os.getpid())
        kind = "cgroup2" if own.unified else "cgroup"
        mounts = [mount.point for mount in read_mounts() if mount.kind == kind]
        top = next(point for point in mounts if str(own.path).startswith(point))
        return cls(Path(top + os.path.normpath("/" + path)), own.unified)

    def exists(self) -> bool:
        """Is the cgroup still there?"""
        return self.path.is_dir()

    def frozen(self) -> bool:
        """Is it frozen, or about to be? A cgroup that is gone is not."""
        try:
            if self.unified:
                return (self.path / "cgroup.freeze").read_text().strip() == "1"
            return (self.path / "freezer.state").read_text().strip() != "THAWED"
        except OSError:
            return False

    def thaw(self) -> None:
        """Let everything run; nothing happens if it already does or the cgroup is gone. FreezerFailed if refused."""
        name, word = ("cgroup.freeze", "0") if self.unified else ("freezer.state", "THAWED")
        try:
            (self.path / name).write_text(word)
        except OSError as error:
            if self.exists():
                raise FreezerFailed(f"{self.path} could not be thawed: {error.strerror}") from error

    def pids(self) -> list[int]:
        """The processes in the cgroup and the cgroups below it, as this pid namespace numbers them."""
        found: set[int] = set()
        for folder, _, _ in os.walk(self.path):
            with contextlib.suppress(OSError):  # a cgroup may go while we look
                found |= {int(word) for word in (Path(folder) / "cgroup.procs").read_text().split()}
        return sorted(found - {0})

    def kill(self) -> None:
        """SIGKILL everything, then thaw. Frozen processes die without running another instruction of theirs.

        On version 1 the signal waits for the thaw (100 trials, nothing ran); on version 2 it acts while frozen.
        `runc kill` is not used: a second process of a paused container ran on in 23 of 50 trials.
        """
        if self.unified:
            with contextlib.suppress(OSError):  # Linux before 5.14 has no such switch, or the cgroup is gone
                (self.path / "cgroup.kill").write_text("1")
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            hurry(pid)
        self.thaw()

    def wait_empty(self, limit_seconds: float) -> None:
        """Until no process is left. Blocks. FreezerFailed, naming one that stays, after `limit_seconds`."""
        end = time.monotonic() + limit_seconds
        while pids := self.pids():
            if time.monotonic() > end:
                raise FreezerFailed(f"process {pids[0]} of {self.path} did not die within {limit_seconds:g} s")
            time.sleep(_POLL)
