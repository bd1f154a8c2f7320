"""Dockers other than the machine's own, for tests: trixie's and sid's, unpacked into the cache; no chroot, no daemon.

Every program of Debian's newer Docker runs on Debian 12's libc but runc, which gets its own loader and libraries by
patchelf, as scripts/criu_prefix.sh does for CRIU. That is 62 MB to fetch and ten seconds, against 70 s and 681 MB for a
whole system by debootstrap. iptables stays the machine's. dpkg never hears of any of it.

    release.programs()      folders for docker_bed(programs=...), made where they are missing

Remove /var/cache/perdure/docker/SUITE to get the suite's newest again.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.compatibility import versions_here
from tests.integration.docker_bed import Bed

CACHE = Path("/var/cache/perdure/docker")
_PACKAGES = ("docker.io", "docker-cli", "containerd", "runc", "libc6", "libseccomp2")
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LIMIT = 600.0


class NotToBeHad(Exception):
    """The Docker could not be fetched or does not run here; the reason."""


@dataclass(frozen=True)
class DockerRelease:
    """One Docker with one way to store images. `suite` is empty for the machine's own."""

    suite: str
    storage: str = "overlay2"

    @property
    def column(self) -> str:
        """Of the compatibility table; the versions that the suite had are told by the run."""
        storage = "image store" if self.storage == "containerd" else self.storage
        return f"Docker of {self.suite or 'Debian 12'}, {storage}"

    def __str__(self) -> str:
        return f"{self.suite or 'host'}-{self.storage}"

    def programs(self) -> tuple[Path, ...]:
        """Folders to put first on PATH; NotToBeHad. One test run at a time fetches, others wait for it."""
        if not self.suite:
            return ()
        folder = CACHE / self.suite
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            root = folder / "root"
            if not root.exists():
                print(f"fetching Docker of Debian {self.suite} into {folder}, 62 MB", flush=True)
                _fetch(self.suite, folder)
                _unpack(folder / "archives", root)
                for leftover in ("archives", "lists", "cache"):
                    shutil.rmtree(folder / leftover, ignore_errors=True)
        return (root / "usr/sbin", root / "usr/bin")


HOST = DockerRelease("")
TRIXIE, TRIXIE_IMAGE_STORE = DockerRelease("trixie"), DockerRelease("trixie", "containerd")
SID, SID_IMAGE_STORE = DockerRelease("sid"), DockerRelease("sid", "containerd")
NEWER = (TRIXIE, TRIXIE_IMAGE_STORE, SID, SID_IMAGE_STORE)


def programs_or_skip(release: DockerRelease) -> tuple[Path, ...]:
    """The programs; the test is skipped, with the reason, if sid's cannot be had: what sid does today is no fault of a
    change that is being tested. Any other Docker has to be there."""
    try:
        return release.programs()
    except NotToBeHad as reason:
        if release.suite == "sid":
            pytest.skip(str(reason))
        raise


def versions_of(bed: Bed) -> dict[str, str]:
    """What the release's column of the compatibility table is headed with: the programs that the bed's node runs."""
    runc = re.search(r"\d[\d.]+", bed.node.tool("env", f"PATH={bed.node.path}", "runc", "--version"))
    return versions_here() | {"Docker": bed.version(), "runc": runc[0] if runc else ""}


def _fetch(suite: str, folder: Path) -> None:
    """The packages of `suite` in folder/archives, from the archive that this machine's apt already uses."""
    archives = folder / "archives"
    shutil.rmtree(archives, ignore_errors=True)
    archives.mkdir()
    (folder / "lists/partial").mkdir(parents=True, exist_ok=True)
    (folder / "cache").mkdir(exist_ok=True)
    (folder / "status").touch()
    signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    (folder / "sources.list").write_text(f"deb {signed}{_archive_site()} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State": folder,
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    apt = ["apt-get", "-q", "-y", *(f"-o{name}={value}" for name, value in options.items())]
    _run(*apt, "update", cwd=archives)
    _run(*apt, "download", *_PACKAGES, cwd=archives)


def _archive_site() -> str:
    codename = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    filters = ["Created-By: Packages", "Origin: Debian", f"Codename: {codename[1] if codename else ''}"]
    for _ in range(2):
        sites = _run("apt-get", "indextargets", "--format", "$(SITE)", *filters).split()
        if sites:
            return sorted(sites)[0]
        _run("apt-get", "-q", "update")  # a machine that has never asked its archive
    raise NotToBeHad("no Debian archive in this machine's apt configuration")


def _unpack(archives: Path, root: Path) -> None:
    """All packages in `root`, which appears when it is complete."""
    new = root.with_name("root.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for package in sorted(archives.glob("*.deb")):
        _run("dpkg-deb", "-x", str(package), str(new))
    shutil.rmtree(new / "usr/share")
    libraries = next(new.glob("**/libc.so.6")).parent.relative_to(new)
    loader = next(path for path in new.glob("**/ld-linux-*.so.*") if not path.is_symlink()).relative_to(new)
    runc = new / "usr/sbin/runc"
    _run(
        *("patchelf", "--set-interpreter", str(root / loader), "--force-rpath", "--set-rpath", str(root / libraries)),
        str(runc),
    )
    new.rename(root)


def _run(*argv: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise NotToBeHad(f"{argv[0]} did not end within {_LIMIT:g} s") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise NotToBeHad(f"{argv[0]} {argv[-1]}: {last}")
    return done.stdout
