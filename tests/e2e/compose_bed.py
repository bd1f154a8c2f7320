"""A dockerd in namespaces of its own, with networks of its own, for docker-compose; and a project made for it.

No registry is reached from here, so what docker-compose.yml pulls is stood in for: one image of Debian packages is the
server's base image, PostgreSQL's, and the place of Temporal's dev server. The server's own image is built by its
Dockerfile from wheels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localcloud.nodes.images.build import build_image
from localcloud.nodes.images.catalogue import Catalogue
from perdure.image.mounts import delete_tree
from perdure.waiting import until
from tests.cgroups import cgroups_below
from tests.integration.docker_images import CACHE, cache_lock
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
PACKAGES = ["postgresql-15", "python3", "python3-venv"]
BASE = "perdure-test-base"
_LEFT_OUT = [
    *(f"./usr/share/{name}" for name in ("locale", "doc", "man", "i18n", "perl")),
    *(f"./usr/lib/{name}" for name in ("*/perl", "*/libLLVM*", "*/libz3*")),
    *(f"./usr/lib/postgresql/15/lib/{name}" for name in ("bitcode", "llvm*")),
    *("./var/lib/postgresql/15", "./var/lib/apt", "./var/cache/apt"),
]
"""Of that image: two thirds of it, which nobody here uses (PostgreSQL's compiler of queries, Perl, a cluster)."""
_BOOT = """
set -e
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/lock
ip link set lo up
exec dockerd --config-file="$1/daemon.json" --data-root="$1/data" --exec-root=/run/docker --pidfile=/run/docker.pid \
    --host=unix:///run/docker.sock --storage-driver=overlay2 --exec-opt=native.cgroupdriver=cgroupfs \
    --cgroup-parent="$2" --ip6tables=false
"""


class Docker:
    """That dockerd. `run` and `pipe` speak to it; `at` runs a program in its network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "daemon.json").write_text(json.dumps({"features": {"buildkit": False}}))
        self._log = (folder / "dockerd.log").open("wb")
        namespaces = ["--net", "--pid", "--mount", "--ipc", "--uts", "--propagation", "private", "--mount-proc"]
        self._holder = subprocess.Popen(
            ["unshare", *namespaces, "--fork", "--kill-child", "sh", "-c", _BOOT, "sh", folder, f"/{folder.name}"],
            start_new_session=True,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        with contextlib.suppress(TimeoutError):
            until(lambda: self._serves() or self._holder.poll() is not None, PATIENCE, 0.1)
        assert self._serves(), (folder / "dockerd.log").read_text()[-2000:]

    def _serves(self) -> bool:
        return self.run("/usr/bin/docker", "info", check=False).returncode == 0

    @property
    def inside(self) -> list[str]:
        """What comes before a program that runs beside dockerd."""
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        target = children[0] if children else "0"
        return ["nsenter", "--target", target, "--net", "--mount", "--pid", "--ipc", "--uts", "--"]

    def run(
        self, *argv: str | Path, check: bool = True, limit: float = PATIENCE, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program there; it must succeed unless `check` is off."""
        words = [*self.inside, *(["env", f"--chdir={cwd}"] if cwd else []), *map(str, argv)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit, check=False)
        assert not check or done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def load(self, name: str, packages: list[str]) -> None:
        """An image of Debian packages, under that name."""
        image = build_image(name, packages, lambda line: print(f"{name}: {line}", flush=True))
        rootfs = Catalogue().rootfs(image)
        pack = ["tar", "-C", str(rootfs), *(f"--exclude={one}" for one in _LEFT_OUT), "-c", "."]
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as tar:
            argv = [*self.inside, "/usr/bin/docker", "import", "-", name]
            subprocess.run(argv, stdin=tar.stdout, stdout=subprocess.DEVNULL, timeout=PATIENCE, check=True)

    def close(self) -> None:
        """Its containers die with their pid namespace."""
        self._holder.kill()
        self._holder.wait()
        self._log.close()


@contextmanager
def docker() -> Iterator[Docker]:
    """dockerd with nothing in it but the base image; nothing of it is left afterwards."""
    folder = Path("/var/tmp") / f"perdure-compose-{os.getpid()}"
    folder.mkdir()
    bed = None
    try:
        bed = Docker(folder)
        bed.load(BASE, PACKAGES)
        yield bed
    finally:
        if bed is not None:
            bed.close()
        until(
            lambda: all(_gone(group) for group in cgroups_below(f"/{folder.name}")),
            PATIENCE,
            0.1,
            f"the cgroups of {folder.name} do not go",
        )
        delete_tree(folder)


def _gone(group: Path) -> bool:
    """Removed, with what is below it; not as long as processes are in it."""
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)
    except OSError:
        return not group.exists()
    return True


def project(folder: Path) -> Path:
    """A copy of what docker-compose needs of this repository, with wheels of the server's dependencies."""
    folder.mkdir()
    for name in ("docker-compose.yml", "requirements-server.txt", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(ROOT / ".dockerignore", folder)
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/hatch_build.py", folder / "scripts")
    for name in ("deploy", "perdure", "workflows", "activities", "worker_agent", "api", "localcloud", "console"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    _wheels(folder / "wheels")
    return folder


def _wheels(folder: Path) -> None:
    """What the server needs and what its wheel is built with, by the pins, in `folder`; fetched once for a machine."""
    builders = [line for line in _pins(ROOT / "requirements-dev.txt") if line.split("==")[0] in BUILDERS]
    wanted = (ROOT / "requirements-server.txt").read_bytes() + "\n".join(builders).encode()
    place = CACHE / f"wheels-{hashlib.sha256(wanted).hexdigest()[:12]}"
    with cache_lock("wheels"):
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as name:
                pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", f"{name}/wheels", "--no-deps"]
                for words in (["--require-hashes", "--requirement", str(ROOT / "requirements-server.txt")], builders):
                    subprocess.run([*pip, *words], check=True, timeout=600)
                for old in CACHE.glob("wheels-*/"):
                    shutil.rmtree(old)
                Path(name, "wheels").rename(place)
        shutil.copytree(place, folder)


BUILDERS = {"hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers"}
"""What the wheel of this repository is built with."""


def _pins(file: Path) -> list[str]:
    return [line.split()[0] for line in file.read_text().splitlines() if line[:1].isalpha()]
