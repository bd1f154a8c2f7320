"""Programs of Debian packages for tests, without installing them: an installed service might begin to serve."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.integration.docker_images import CACHE, cache_lock

_LIMIT = 300.0
"""Seconds. Fetched once for a machine."""


def unpacked(*packages: str) -> Path:
    """The files of these packages, from the machine's own apt sources, below one folder of the cache."""
    tree = CACHE / "debian" / packages[0]
    with cache_lock(f"debian-{packages[0]}"):
        if not tree.exists():
            print(f"fetching Debian's {' '.join(packages)} for the tests", flush=True)
            tree.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=tree.parent) as folder:
                shutil.chown(folder, "_apt")  # apt fetches as that user
                _run("apt-get", "-q", "download", *packages, cwd=folder)
                fresh = Path(folder, "tree")
                for package in sorted(Path(folder).glob("*.deb")):
                    _run("dpkg-deb", "-x", str(package), str(fresh))
                fresh.rename(tree)
    return tree


def libraries(tree: Path) -> dict[str, str]:
    """The environment in which a program of that folder finds the folder's libraries."""
    return {**os.environ, "LD_LIBRARY_PATH": str(tree / f"usr/lib/{os.uname().machine}-linux-gnu")}


def _run(*argv: str, cwd: str | None = None) -> None:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=_LIMIT, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
