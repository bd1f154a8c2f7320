"""The release as `make bundle` builds it, once for a test session, and what is made of it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.image.mounts import delete_tree
from tests.patience import PATIENCE
from tests.release.machine import debian_base
from tests.release.small import small_release

ROOT = Path(__file__).parents[2]
_BUILD = 900.0
"""Seconds. The first test of a session waits for it, so these tests have a long time-out."""


@pytest.fixture(scope="session")
def release() -> Path:
    """Folder of the release: archive, installer, manifest; the one that PERDURE_RELEASE names, if it does. Skips,
    with the reason, where its parts cannot be had."""
    if given := os.environ.get("PERDURE_RELEASE"):
        return Path(given).resolve()
    folder = ROOT / "build/release"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / "release.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        argv = [sys.executable, "-m", "scripts.bundle", "--known", "--output", str(folder)]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=_BUILD, check=False)
    if done.returncode != 0 and "could not resolve" in done.stderr.lower():
        pytest.skip(f"the release cannot be built without a package index: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def base() -> Path:
    return debian_base()


@pytest.fixture(scope="session")
def unpacked(release: Path) -> Iterator[Path]:
    """The version's folder in the archive."""
    with tempfile.TemporaryDirectory(prefix="perdure-release-", dir="/var/tmp") as name:
        archive = next(release.glob(f"perdure-worker-*-{os.uname().machine}.tar.gz"))
        subprocess.run(["tar", "-xzf", str(archive), "-C", name], check=True, timeout=PATIENCE)
        yield next(Path(name).iterdir())


@pytest.fixture(scope="session")
def small(unpacked: Path) -> Iterator[Path]:
    """The folder of a small release (small.py)."""
    with tempfile.TemporaryDirectory(prefix="perdure-small-", dir="/var/tmp") as name:
        yield small_release(Path(name) / "release", unpacked, Path(name) / "scratch")


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder on a real disk."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-release-test-", dir="/var/tmp"))
    yield folder
    if folder.exists():
        delete_tree(folder)
