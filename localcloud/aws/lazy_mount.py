"""The program that plays slow volumes (lazy_volumes.py): started when the first one is made, stopped with the cloud."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from localcloud.linux import mount_table, unmount
from perdure.domain.errors import VolumeFailed
from perdure.waiting import until

LAZY, STATUS = ".lazy", ".status"
START_SECONDS, STOP_SECONDS = 120.0, 5.0


class Laziness(BaseModel):
    """How slow a volume is: seconds for the first touch of a block, MiB/s for all such blocks together, and MiB/s at
    which it is filled without being touched (0: not at all)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_touch_seconds: float = Field(ge=0)
    mib_per_second: float = Field(gt=0)
    initialization_mib_per_second: float = Field(0.0, ge=0)


class LazyMount:
    """`folder` as it is, but with volumes that were made from snapshots as slow as they were said to be."""

    def __init__(self, folder: Path, point: Path) -> None:
        self._folder, self._point = folder, point
        self._program: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def make_lazy(self, name: str, laziness: Laziness) -> None:
        """The file `name` is slow from now on. VolumeFailed where FUSE is not to be had."""
        (self._folder / (name + LAZY)).write_text(laziness.model_dump_json())
        with self._lock:
            if self._program is None:
                self._start()

    def path(self, name: str) -> Path:
        """Where to open the file: here if it is slow, else in its own folder."""
        lazy = (self._folder / (name + LAZY)).exists()
        return (self._point if lazy else self._folder) / name

    def status(self, name: str) -> dict[str, Any] | None:
        """{"blocks", "left"} of a slow file; None of any other."""
        if self.path(name).parent != self._point:
            return None
        with contextlib.suppress(OSError):  # the program is being ended
            found: dict[str, Any] = json.loads((self._point / (name + STATUS)).read_text())
            return found
        return None

    def forget(self, name: str) -> None:
        """The file goes."""
        (self._folder / (name + LAZY)).unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount; the program ends by that."""
        with self._lock:
            if self._program is None:
                return
            with contextlib.suppress(OSError):
                unmount(self._point, lazily=True)
            try:
                self._program.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._program.kill()
                self._program.wait()
            self._program = None

    def _start(self) -> None:
        self._point.mkdir(mode=0o700, exist_ok=True)
        self._program = subprocess.Popen(
            [sys.executable, "-m", "localcloud.aws.lazy_volumes", str(self._point), str(self._folder)],
            stdin=subprocess.DEVNULL,
        )
        try:
            until(self._serves, START_SECONDS, 0.05)
        except TimeoutError:
            self._program.kill()
            self._program.wait()
            self._program = None
            raise VolumeFailed(
                "volumes cannot be slow here: FUSE does not serve (is there a /dev/fuse, is libfuse3 installed?)"
            ) from None

    def _serves(self) -> bool:
        return any(entry.point == self._point and entry.kind.startswith("fuse") for entry in mount_table())
