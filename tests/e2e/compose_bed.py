"""The server's machine: dockerd in namespaces and a network of its own, with folders that a boot may write to; and what
a release has for it.

What such a machine fetches is stood in for: tests/e2e/stand_ins/README.md says by what.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import MappingProxyType

from localcloud.nodes.images.build import build_image
from localcloud.nodes.images.catalogue import Catalogue
from perdure.image.mounts import delete_tree
from perdure.waiting import until
from tests.cgroups import cgroups_below
from tests.e2e.compose_parts import pulled
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
STAND_INS = Path(__file__).parent / "stand_ins"
ADDRESS = "192.0.2.10"
"""The machine's own (RFC 5737): what its metadata service says, beside loopback. Its name server
is there (stand_ins/names.py)."""
NOTHING: Mapping[str, str] = MappingProxyType({})
DATA_VOLUME = "vol-0123456789abcdef0"
PACKAGES = ["haproxy", "postgresql-15", "python3", "python3-venv"]
BASE = "perdure-test-base"
_IMAGES = {
    "python": "",
    "node": "",
    "temporalio/admin-tools": "",
    "postgres": """ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        ENTRYPOINT ["/bin/sh", "/usr/local/bin/postgresql.sh"]""",
    # The first process of a container hears nothing but SIGKILL.
    "temporalio/server": """ENTRYPOINT ["/usr/bin/python3", "/usr/local/bin/temporal.py"]
        STOPSIGNAL SIGKILL""",
    "temporalio/ui": """ENTRYPOINT ["/bin/sleep", "infinity"]
        STOPSIGNAL SIGKILL""",
    "haproxy": """ENTRYPOINT ["haproxy", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]""",
}
"""What the project pulls: what the base image needs to stand in for it."""
_LEFT_OUT = [
    *(f"./usr/share/{name}" for name in ("locale", "doc", "man", "i18n", "perl")),
    *(f"./usr/lib/{name}" for name in ("*/perl", "*/libLLVM*", "*/libz3*")),
    *(f"./usr/lib/postgresql/15/lib/{name}" for name in ("bitcode", "llvm*")),
    *("./var/lib/postgresql/15", "./var/lib/apt", "./var/cache/apt"),
]
"""Of that image: two thirds of it, which nobody here uses (PostgreSQL's compiler of queries, Perl, a cluster)."""
_WRITTEN = ("etc", "opt", "root", "var/lib")
"""Folders that a boot and its people write to."""
_BOOT = """
set -e
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/lock
for place in $3; do
    mkdir -p "$1/disk/$place/upper" "$1/disk/$place/work"
    mount -t overlay -o "lowerdir=/$place,upperdir=$1/disk/$place/upper,workdir=$1/disk/$place/work" none "/$place"
done
rm -rf /etc/docker
ip link set lo up
ip address add "$4/32" dev lo
"$5" "$6" "$4" &
exec dockerd --config-file="$1/daemon.json" --data-root="$1/data" --exec-root=/run/docker --pidfile=/run/docker.pid \
    --host=unix:///run/docker.sock --storage-driver=overlay2 --exec-opt=native.cgroupdriver=cgroupfs \
    --cgroup-parent="$2" --ip6tables=false
"""


class Machine:
    """Made by `machine`. It sees this machine's files; what it writes below _WRITTEN is its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "daemon.json").write_text(json.dumps({"features": {"buildkit": False}, "dns": [ADDRESS]}))
        self._log = (folder / "dockerd.log").open("wb")
        words = [
            str(folder),
            f"/{folder.name}",
            " ".join(_WRITTEN),
            ADDRESS,
            sys.executable,
            str(STAND_INS / "names.py"),
        ]
        namespaces = ["--net", "--pid", "--mount", "--ipc", "--uts", "--propagation", "private", "--mount-proc"]
        self._holder = subprocess.Popen(
            ["unshare", *namespaces, "--fork", "--kill-child", "sh", "-c", _BOOT, "sh", *words],
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
    def _init(self) -> int:
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    @property
    def _inside(self) -> list[str]:
        """What comes before a program that runs beside dockerd."""
        return ["nsenter", "--target", str(self._init), "--net", "--mount", "--pid", "--ipc", "--uts", "--"]

    def at(self, path: str) -> Path:
        """A file of the machine, seen from here."""
        return Path(f"/proc/{self._init}/root{path}")

    def run(
        self,
        *argv: str | Path,
        check: bool = True,
        limit: float = PATIENCE,
        given: str = "",
        more: Mapping[str, str] = NOTHING,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program there, `given` as its input; it must succeed unless `check` is off."""
        done = subprocess.run(
            [*self._inside, *map(str, argv)],
            env={**os.environ, "HOME": "/root", **more},
            input=given,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        assert not check or done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def typed(
        self,
        lines: list[str] | str,
        folder: str = "/root",
        answers: Mapping[str, str] = NOTHING,
        secrets: Mapping[str, str] = NOTHING,
        limit: float = PATIENCE,
    ) -> str:
        """What somebody sees who types these lines at a terminal of it, in that folder, with the stand-ins among its
        programs. `answers`: question → what he says; `secrets`: the same, for those that do not show it.
        AssertionError: a line fails."""
        script = "\n".join(["set -eu", f"cd {folder}", *([lines] if isinstance(lines, str) else lines)])
        terminal, end = pty.openpty()
        environment = {**os.environ, "HOME": "/root", **self._programs()}
        argv = [*self._inside, "setsid", "--ctty", "--wait", "bash", "-c", script]
        with (
            os.fdopen(terminal, "rb+", buffering=0) as screen,
            subprocess.Popen(argv, stdin=end, stdout=end, stderr=end, env=environment) as shell,
        ):
            os.close(end)
            said = _conversation(screen, answers, secrets, time.monotonic() + limit)
            assert shell.wait(PATIENCE) == 0, f"{script}\n{said}"
        return said

    def boots(self, script: str, buckets: Path) -> None:
        """What cloud-init does with user data at a first boot, where S3 has these folders as buckets."""
        with (self.folder / "data.img").open("wb") as file:
            file.truncate(4 << 30)
        self.run("bash", "-c", script, limit=900, more={"BUCKETS": str(buckets), **self._programs()})

    def _programs(self) -> dict[str, str]:
        binaries = f"{STAND_INS / 'programs'}:{Path(sys.executable).parent}"
        return {
            "PATH": f"{binaries}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "ADDRESS": ADDRESS,
            "DATA_FILE": str(self.folder / "data.img"),
        }

    def load(self) -> None:
        """All images that the project pulls, of Debian packages."""
        image = build_image(BASE, PACKAGES, lambda line: print(f"{BASE}: {line}", flush=True))
        rootfs = Catalogue().rootfs(image)
        ours = sorted(path.name for path in (STAND_INS / "image").iterdir() if path.is_file())
        pack = ["tar", "-C", str(rootfs), *(f"--exclude={one}" for one in _LEFT_OUT), "-c", "."]
        pack += ["--transform", "s,^[^.],usr/local/bin/&,SH", "-C", str(STAND_INS / "image"), *ours]
        pack += ["-C", str(Path(sys.executable).parent), "temporal"]
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as tar:
            argv = [*self._inside, "/usr/bin/docker", "import", "-", BASE]
            subprocess.run(argv, stdin=tar.stdout, stdout=subprocess.DEVNULL, timeout=PATIENCE, check=True)
        for name in pulled():
            if changes := _IMAGES[name.rpartition(":")[0]]:
                self.run("/usr/bin/docker", "build", "--tag", name, "-", given=f"FROM {BASE}\n{changes}\n")
            else:
                self.run("/usr/bin/docker", "tag", BASE, name)

    def close(self) -> None:
        """Its containers die with their pid namespace."""
        self._holder.kill()
        self._holder.wait()
        self._log.close()


@contextmanager
def machine() -> Iterator[Machine]:
    """With the images of `pulled` and nothing else; nothing of it is left afterwards."""
    folder = Path("/var/tmp") / f"perdure-compose-{os.getpid()}"
    folder.mkdir()
    made = None
    try:
        made = Machine(folder)
        made.load()
        yield made
    finally:
        if made is not None:
            made.close()
        until(
            lambda: all(_gone(group) for group in cgroups_below(f"/{folder.name}")),
            PATIENCE,
            0.1,
            f"the cgroups of {folder.name} do not go",
        )
        delete_tree(folder)


def _conversation(screen: FileIO, answers: Mapping[str, str], secrets: Mapping[str, str], end: float) -> str:
    """All that appears on a terminal until its programs have ended; each question is answered once."""
    said, open_questions = b"", {**answers, **secrets}
    while True:
        ready, _, _ = select.select([screen], [], [], max(0, end - time.monotonic()))
        assert ready, f"too late: {said.decode()}"
        try:
            said += screen.read(65536)
        except OSError:  # EIO: nobody has the other end any more
            assert not open_questions, f"not asked: {open_questions}\n{said.decode()}"
            return said.decode().replace("\r\n", "\n")
        for question in [one for one in open_questions if one.encode() in said]:
            if question in secrets:  # what came before the terminal stops to show it is thrown away
                until(lambda: not termios.tcgetattr(screen)[3] & termios.ECHO, PATIENCE, 0.05, f"{question} is hidden")
            screen.write(open_questions.pop(question).encode() + b"\n")


def _gone(group: Path) -> bool:
    """Removed, with what is below it; not as long as processes are in it."""
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)
    except OSError:
        return not group.exists()
    return True
