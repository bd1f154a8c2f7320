"""A root file system with the programs that people's jobs run, from Debian packages: the lower layer of a container.

It is made once and kept in PERDURE_CACHE (default /var/cache/perdure), some 2 GB; the archive is the one that this
machine's apt uses. The first run takes minutes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from perdure.image.mounts import delete_tree

PACKAGES = [
    *("python3", "perl-base", "gawk", "tini", "procps", "gcc", "libc6-dev"),
    *("default-jdk-headless", "r-base-core", "ffmpeg", "sqlite3", "postgresql"),
    *("bwa", "samtools", "ncbi-blast+", "parallel", "make", "openmpi-bin", "python3-mpi4py", "nodejs"),
]
_SITE = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Origin: Debian"]
_DEBOOTSTRAP_LIMIT, _INSTALL_LIMIT = 900, 2400


def image() -> Path:
    """The folder; made if it is not there. RuntimeError, with the last words, if that fails."""
    cache = Path(os.environ.get("PERDURE_CACHE", "/var/cache/perdure"))
    cache.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(" ".join([_codename(), *PACKAGES]).encode()).hexdigest()[:12]
    root = cache / f"matrix-image-{name}"
    with _locked(cache / "matrix-image.lock"):
        if not root.is_dir():
            for old in cache.glob("matrix-image-*"):
                delete_tree(old)
            print("making an image with JVM, R, MPI, BLAST and others: some minutes, once", file=sys.stderr, flush=True)
            making = cache / f"matrix-image-{name}.part"
            _make(making)
            making.rename(root)
    return root


def _make(root: Path) -> None:
    """debootstrap's own resolver cannot cope with large packages: it makes the base, apt and dpkg the rest."""
    sites = _run([*_SITE, f"Codename: {_codename()}"], 60).split()
    if not sites:
        raise RuntimeError("no Debian archive in this machine's apt configuration")
    _run(["debootstrap", "--variant=minbase", _codename(), str(root), sites[0]], _DEBOOTSTRAP_LIMIT)
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")  # packages start no servers
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    archives = root / "var/cache/apt/archives"
    places = [f"Dir::State::status={root}/var/lib/dpkg/status", f"Dir::Cache::archives={archives}"]
    settings = [*places, "APT::Install-Recommends=false", "APT::Sandbox::User=root"]
    apt = ["apt-get", "-q", "-y", *(word for setting in settings for word in ("-o", setting))]
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    _run([*apt, "--download-only", "install", *PACKAGES], _INSTALL_LIMIT)
    steps = (
        "export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8; cd /var/cache/apt/archives; mount -t proc proc /proc; "
    )
    steps += "dpkg --force-depends --unpack *.deb && dpkg --configure -a && rm -f *.deb"
    _run(["unshare", "--mount", "--pid", "--fork", "chroot", str(root), "/bin/sh", "-c", steps], _INSTALL_LIMIT)


def _codename() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("VERSION_CODENAME="))


def _run(argv: list[str], limit: float) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=limit, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{argv[0]} failed: {(done.stdout + done.stderr)[-1500:]}")
    return done.stdout


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
