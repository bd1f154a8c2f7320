"""Cgroups of this machine, while others come and go: pathlib's `**` fails for a folder that is removed under it."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def cgroups_below(end: str) -> list[Path]:
    """Those, in all trees, whose paths end so."""
    return [Path(folder) for folder, _, _ in os.walk(ROOT) if folder.endswith(end)]
