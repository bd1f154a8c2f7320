"""Mounts of others that a new mount namespace inherits, and must let go: it would pin their volumes and namespaces."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from localcloud.linux import MountEntry, unmount
from perdure.settings import CRIU_PREFIX


def foreign_mounts(table: list[MountEntry], stacks: Path, needed: list[Path]) -> list[Path]:
    """Inherited mounts that we must let go, deepest first.

    Those are everything below the stacks' folders, on loop devices, overlays and namespace files, unless a `needed`
    path lies on it.
    """
    return [
        entry.point
        for entry in reversed(table)
        if (
            entry.point.is_relative_to(stacks)
            or entry.source.startswith("/dev/loop")
            or entry.kind in {"overlay", "nsfs"}
        )
        and not any(path.is_relative_to(entry.point) for path in needed)
    ]


def needed_paths() -> list[Path]:
    """What our programs cannot do without: the system, our code, our Python, CRIU."""
    code = Path(__file__).resolve().parents[1]
    system = [Path("/"), Path("/proc"), Path("/sys"), Path("/dev")]
    return [*system, code, Path(sys.prefix).resolve(), CRIU_PREFIX.resolve()]


def let_go(points: list[Path]) -> None:
    """Unmount them in this namespace, lazily. The namespace must be our own."""
    for point in points:
        with contextlib.suppress(OSError):  # went with one above it
            unmount(point, lazily=True)
