"""Source packages of Debian whose tests are run through the product: fetched once, kept outside the repository.

CRIU's tests are GPL and runc's Apache: neither is ever part of this project. They lie below PERDURE_CACHE/conformance
(default /var/cache/perdure/conformance). The archive's address is that of the machine's own apt configuration.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from perdure.image.mounts import delete_tree

CACHE = Path(os.environ.get("PERDURE_CACHE", "/var/cache/perdure")) / "conformance"
FETCH_LIMIT, KEYRING = 300, Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class SourceMissing(Exception):
    """The source cannot be had on this machine; the message says why."""


def unpacked(package: str, upstream: str, suite: str) -> Path:
    """The unpacked source of that upstream version, from the suite's archive; fetched if it is not there.
    Raises SourceMissing."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / f"{package}-{upstream}"
    with locked(CACHE / f"{package}.lock"):
        if not folder.is_dir():
            archive = _archive(package, upstream, suite)
            making = CACHE / f"{package}-{upstream}.part"
            delete_tree(making)
            making.mkdir()
            with tarfile.open(archive) as tar:
                tar.extractall(making)  # apt has verified it; Debian 12's Python (3.11.2) knows no filter yet
            (inner,) = making.iterdir()
            inner.rename(folder)
            making.rmdir()
    return folder


def _archive(package: str, upstream: str, suite: str) -> Path:
    """apt verifies each file that it fetches; only then does the file get its name. That another part of the source
    package (Debian's own changes) answers 404 is no matter here."""
    found = CACHE / f"{package}_{upstream}.orig.tar.xz"
    if not found.exists():
        said = _fetch(package, suite)
        if not found.exists():
            raise SourceMissing(f"the source of {package} {upstream} cannot be had from Debian {suite}: {said}")
    return found


def _fetch(package: str, suite: str) -> str:
    site = _run([*_SITE, f"Codename: {_codename()}"]).stdout.split()
    if not site:
        return "no Debian archive in this machine's apt configuration"
    apt = CACHE / "apt"
    for name in ("lists/partial", "archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    (apt / "sources.list").write_text(f"deb-src {signed}{site[0]} {suite} main\n")
    (apt / "status").write_text("")
    settings = [
        f"Dir::Etc::sourcelist={apt}/sources.list",
        "Dir::Etc::sourceparts=-",
        f"Dir::State={apt}",
        f"Dir::State::status={apt}/status",
        f"Dir::Cache={apt}",
        "APT::Sandbox::User=root",
    ]
    command = ["apt-get", "-q", "-y", *(word for setting in settings for word in ("-o", setting))]
    updated = _run([*command, "update"])
    fetched = _run([*command, "--download-only", "source", package])
    said = (updated.stderr if updated.returncode else "") + fetched.stderr
    return " ".join(said.split())[-300:] or "another version is there"


_SITE = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Origin: Debian"]


def _codename() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    return next((line.partition("=")[2] for line in lines if line.startswith("VERSION_CODENAME=")), "")


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(argv, cwd=CACHE, capture_output=True, text=True, timeout=FETCH_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise SourceMissing(f"{argv[0]}: {problem}") from problem


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file's lock: two runs of the tests share the cache."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
