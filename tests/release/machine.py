"""A Debian 12 machine for a release to be installed on: namespaces and a root of its own, made by debootstrap once.

    with machine(tmp_path) as debian:                  # an overlay of the base, so that each test has a fresh one
        debian.run("sh", "/release/perdure-install", …)   # a program on it, its output kept
        debian.at("/etc/docker/daemon.json")           # a file of it, seen from here

There is Docker and no Python, no xfsprogs, no nftables, no checkout and no package index. systemd does not run.
Everything ends and goes with the block; nothing is deleted through a mount point, because the mounts end with the
machine's mount namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from perdure.image.mounts import delete_tree
from perdure.waiting import until
from scripts.bundle.debian import BuildFailed, site
from tests.integration.docker_bed import thaw_all
from tests.patience import PATIENCE

CACHE = Path(os.environ.get("PERDURE_CACHE", "/var/cache/perdure")) / "tests"
PACKAGES = "docker.io,curl,ca-certificates,kmod,iproute2,iptables,procps"
_BOOT = """
set -e
mount -t overlay -o "lowerdir=$BASE,upperdir=$FOLDER/upper,workdir=$FOLDER/work" root "$FOLDER/root"
cd "$FOLDER/root"
mkdir -p release var/lib/docker .old
mount -t proc proc proc
mount --rbind /sys sys
mount --bind /dev dev
mkdir -p dev/disk
mount -t tmpfs disk dev/disk
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
mount -t tmpfs shm dev/shm
mount -t tmpfs -o mode=755 run run
mkdir run/lock dev/disk/by-id
mount --bind "$FOLDER/docker" var/lib/docker
mount --bind "$RELEASE" release
[ -z "$SMALL" ] || { mkdir -p opt; mount -t tmpfs -o "size=$SMALL" small opt; }
ip link set lo up
pivot_root . .old
umount -l .old
exec chroot . /bin/sh -c 'rmdir /.old; touch /run/booted; while :; do sleep 3600 & wait $!; done'
"""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Done:
    """What a program on the machine said, and how it ended."""

    status: int
    said: str


class Machine:
    """Made by `machine`."""

    def __init__(self, base: Path, folder: Path, release: Path, own_network: bool, small: str) -> None:
        for name in ("upper", "work", "root", "docker"):
            (folder / name).mkdir(parents=True)
        self.folder = folder
        namespaces = ["--mount", "--pid", "--ipc", "--uts", *(["--net"] if own_network else [])]
        environment = {"PATH": _PATH, "BASE": str(base), "FOLDER": str(folder), "RELEASE": str(release), "SMALL": small}
        argv = ["unshare", *namespaces, "--propagation", "private", "--fork", "--kill-child", "sh", "-c", _BOOT]
        with (folder / "boot.log").open("wb") as log:
            self._holder = subprocess.Popen(argv, stdout=log, stderr=log, env=environment, start_new_session=True)
        self._started: list[subprocess.Popen[bytes]] = []
        self.init = until(self._booted, PATIENCE, 0.05, f"the machine boots: {folder}/boot.log")

    def _booted(self) -> int:
        assert self._holder.poll() is None, (self.folder / "boot.log").read_text()
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        if not children or not Path(f"/proc/{children[0]}/root/run/booted").exists():
            return 0
        return int(children[0])

    @property
    def _inside(self) -> list[str]:
        return ["nsenter", "--target", str(self.init), "--all", "--root", "--wd", "--"]

    def at(self, path: str) -> Path:
        """A file of the machine, seen from here."""
        return Path(f"/proc/{self.init}/root{path}")

    def run(self, *argv: str, limit_seconds: float = PATIENCE, **environment: str) -> Done:
        """Run a program on the machine to its end."""
        everything = {"PATH": _PATH, "HOME": "/root", **environment}
        done = subprocess.run(
            [*self._inside, *argv],
            env=everything,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_seconds,
            check=False,
        )
        return Done(done.returncode, done.stdout)

    def must(self, *argv: str) -> str:
        """Run a program that must succeed; its output."""
        done = self.run(*argv)
        assert done.status == 0, f"{argv}: {done.said}"
        return done.said.strip()

    def start(self, name: str, *argv: str) -> None:
        """Start a program that goes on; its output is in `log(name)`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            environment = {"PATH": _PATH, "HOME": "/root"}
            process = subprocess.Popen([*self._inside, *argv], env=environment, stdout=log, stderr=log)
        self._started.append(process)

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start_dockerd(self) -> None:
        """With /etc/docker/daemon.json and no flags, until it answers."""
        self.start("dockerd", "dockerd")
        until(
            lambda: self.run("docker", "version").status == 0, PATIENCE, 0.2, f"dockerd: {self.log('dockerd')[-1500:]}"
        )

    def files(self, *folders: str) -> dict[str, bytes | str]:
        """Every file below these folders: its content, or where a link leads."""
        found: dict[str, bytes | str] = {}
        for folder in folders:
            for path in sorted(self.at(folder).rglob("*")):
                name = folder + "/" + str(path.relative_to(self.at(folder)))
                if path.is_symlink():
                    found[name] = os.readlink(path)
                elif path.is_file():
                    found[name] = path.read_bytes()
                else:
                    found[name] = "folder"
        return found

    def end(self, cgroup: str = "") -> None:
        """Everything on it ends at once, as when an instance goes. Idempotent."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)
        end = time.monotonic() + PATIENCE
        while self._holder.poll() is None:
            if cgroup:
                thaw_all(cgroup)  # what is frozen does not die
            assert time.monotonic() < end, f"the machine of {self.folder} does not end"
            time.sleep(0.02)
        for process in self._started:
            process.wait(PATIENCE)


@contextlib.contextmanager
def machine(
    base: Path, folder: Path, release: Path, *, own_network: bool = True, small: str = "", cgroup: str = ""
) -> Iterator[Machine]:
    """A fresh machine; `small`: the size of its /opt, for tests without room."""
    made = Machine(base, folder, release, own_network, small)
    try:
        yield made
    finally:
        made.end(cgroup)
        delete_tree(folder)


def debian_base(suite: str = "bookworm", packages: str = PACKAGES) -> Path:
    """A base root, made once on this machine. Skips the test, with the reason, where Debian cannot be had."""
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed")
    CACHE.mkdir(parents=True, exist_ok=True)
    base = CACHE / f"debian-{suite}-{hashlib.sha256(packages.encode()).hexdigest()[:12]}"
    with open(CACHE / "debian.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            _bootstrap(base, suite, packages)
    return base


def _bootstrap(base: Path, suite: str, packages: str) -> None:
    draft, debs = base.with_name(base.name + ".draft"), CACHE / "debs"
    debs.mkdir(exist_ok=True)
    if draft.exists():
        delete_tree(draft)
    try:
        argv = [
            "debootstrap",
            "--variant=minbase",
            f"--cache-dir={debs}",
            *([f"--include={packages}"] if packages else []),
        ]
        argv += [suite, str(draft), site()]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
    except BuildFailed as problem:
        pytest.skip(f"Debian cannot be had here: {problem}")
    if done.returncode != 0:
        pytest.skip(f"debootstrap could not make a Debian here: {(done.stdout + done.stderr).strip()[-300:]}")
    draft.rename(base)
