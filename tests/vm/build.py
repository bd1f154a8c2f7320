"""Builds the virtual machine once and keeps it below /var/cache/perdure/vm: QEMU, Debian's cloud kernel, a root with
runc, Docker, PostgreSQL and our Python dependencies, and the state of the machine just before it gets a job.

Everything comes from the machine's own apt sources; nothing of the host is changed. The folder's name is a digest of
all versions, so that a newer package makes a new machine. `python -m tests.vm.build` builds it by hand.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from perdure.settings import CRIU_PREFIX
from tests.vm import packages, qemu
from tests.vm.packages import run
from tests.vm.qemu import Qemu

CACHE = Path(os.environ.get("PERDURE_CACHE", "/var/cache/perdure")) / "vm"
GUEST = Path(__file__).parent / "guest"
KERNEL = "linux-image-cloud-amd64"
ROOT_PACKAGES = [
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "util-linux", "mount", "tar", "sed", "grep", "gzip"),
    *("findutils", "hostname", "libc-bin", "login", "mawk", "procps", "python3", "runc", "iproute2", "iptables"),
    *("kmod", "xfsprogs", "busybox-static", "docker.io", "tini", "postgresql-15", KERNEL),
]
_UNNEEDED = (
    *("libllvm", "libz3", "perl", "libperl", "locales", "libc-l10n", "udev", "initramfs", "klibc", "debconf"),
    "dpkg",
)
"""Packages (by how their names begin) that only installation scripts or PostgreSQL's compiler use."""
_DEPENDENCIES = (
    *("pydantic", "structlog", "blake3", "xxhash", "pydantic-settings", "psutil", "temporalio", "httpx", "lz4"),
    "zstandard",
)
"""Python packages that engine and agent import, with what they need in turn."""
_PRELOADED = (
    *("asyncio", "ctypes", "sqlite3", "tempfile", "subprocess", "pickle", "hashlib", "concurrent.futures"),
    *("urllib.parse", "pydantic", "pydantic_settings", "structlog", "blake3", "psutil"),
)
_INITRD_MODULES = ("virtio_pci", "virtio_blk", "ext4")
_ROOT_MIB = 2048

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """A machine that is ready to run jobs."""

    folder: Path
    qemu: Qemu

    @property
    def state(self) -> Path:
        return self.folder / "state"


def built(progress: Progress = print) -> Built:
    """The machine, built if this combination of versions was not built yet. Processes wait for each other."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(progress):
        root_files, qemu_files = _resolved()
        folder = CACHE / _key(root_files, qemu_files)
        made = Built(folder, Qemu(folder))
        if not made.state.exists():
            _build(made, root_files, qemu_files, progress)
        return made


def _resolved() -> tuple[dict[str, str], dict[str, str]]:
    """The packages (file → name) of the root and of QEMU. apt is asked again when its lists or this machine changed."""
    changed = [os.stat(place).st_mtime_ns for place in ("/var/lib/apt/lists", "/var/lib/dpkg/status")]
    asked = json.dumps([changed, ROOT_PACKAGES, _UNNEEDED])
    kept = CACHE / "resolved.json"
    with contextlib.suppress(OSError, ValueError):
        question, root_files, qemu_files = json.loads(kept.read_text())
        if question == asked:
            return root_files, qemu_files
    everything = packages.closure(ROOT_PACKAGES, empty=True)
    root_files = {file: name for file, name in everything.items() if not name.startswith(_UNNEEDED)}
    qemu_files = packages.closure(["qemu-system-x86"], empty=False)
    kept.write_text(json.dumps([asked, root_files, qemu_files]))
    return root_files, qemu_files


@contextlib.contextmanager
def _locked(progress: Progress) -> Iterator[None]:
    with open(CACHE / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("virtual machine: waiting for another process that builds it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _key(root_files: dict[str, str], qemu_files: dict[str, str]) -> str:
    parts = [*sorted(root_files), *sorted(qemu_files), os.path.realpath(CRIU_PREFIX), *os.listdir(CRIU_PREFIX)]
    parts += [f"{name}=={importlib.metadata.version(name)}" for name in sorted(_distributions())]
    ours = [Path(__file__), Path(packages.__file__), Path(qemu.__file__), *sorted(GUEST.iterdir())]
    parts += [path.read_text() for path in ours if path.is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _build(made: Built, root_files: dict[str, str], qemu_files: dict[str, str], progress: Progress) -> None:
    begun = time.monotonic()

    def step(text: str) -> None:
        progress(f"virtual machine, {time.monotonic() - begun:3.0f} s: {text}")

    for old in CACHE.iterdir():
        if old.is_dir() and old.name not in ("archives", made.folder.name):
            shutil.rmtree(old)
    shutil.rmtree(made.folder, ignore_errors=True)
    made.folder.mkdir()
    step("fetching Debian packages")
    archives = CACHE / "archives"
    debs = packages.download({**root_files, **qemu_files}, archives)
    step("unpacking QEMU")
    packages.unpack([deb for deb in debs if deb.name in qemu_files and deb.name not in root_files], made.qemu.prefix)
    step("unpacking the root")
    root = made.folder / "root"
    packages.unpack([deb for deb in debs if deb.name in root_files], root)
    version = next((root / "usr/lib/modules").iterdir()).name
    _furnish(root, version)
    step("making the disk and the initial RAM disk")
    initrd(root, version, made.qemu.initrd, GUEST / "initrd.sh")
    (root / f"boot/vmlinuz-{version}").rename(made.qemu.kernel)
    argv = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "lazy_itable_init=1,root_owner=0:0"]
    run([*argv, "-d", str(root), str(made.qemu.root), f"{_ROOT_MIB}M"])
    shutil.rmtree(root)
    step("booting it")
    made.qemu.save(made.state)
    for deb in archives.iterdir():
        if deb not in debs:
            deb.unlink()
    step("ready")


def _furnish(root: Path, version: str) -> None:
    """What the packages' own scripts would have done, our dependencies, CRIU, and the first programs."""
    for name in (
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "work",
        "opt/vm",
        "opt/site-packages",
        "var/tmp",
        "var/lib/docker",
        "root",
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    with open(root / "etc/passwd", "a") as users, open(root / "etc/group", "a") as groups:
        users.write("postgres:x:105:105::/var/lib/postgresql:/bin/sh\njob:x:1000:1000::/home/job:/bin/sh\n")
        groups.write("postgres:x:105:\njob:x:1000:\ndocker:x:106:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost vm\n")
    (root / "etc/resolv.conf").touch()
    for link, target in (("iptables", "xtables-nft-multi"), ("ip6tables", "xtables-nft-multi"), ("awk", "mawk")):
        for suffix in ("", "-save", "-restore") if "iptables" in link or "ip6" in link else ("",):
            place = root / ("usr/bin" if link == "awk" else "usr/sbin") / f"{link}{suffix}"
            place.unlink(missing_ok=True)
            place.symlink_to(target)
    busybox = root / "var/cache/perdure/tests/busybox"  # where docker_images.py looks for it
    busybox.parent.mkdir(parents=True)
    shutil.copy(root / "usr/bin/busybox", busybox)
    run(["ldconfig", "-r", str(root)])
    run(["depmod", "-b", str(root), version])
    (root / CRIU_PREFIX.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
    run(["cp", "-a", str(CRIU_PREFIX), str(root / CRIU_PREFIX.relative_to("/"))])
    for name in sorted(_distributions()):
        for file in importlib.metadata.files(name) or []:
            if ".." not in file.parts:
                copy = root / "opt/site-packages" / file
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(file.locate()), copy)  # with its time, else compiled code does not count
    # The packages' scripts would have compiled the standard library, and this kernel is slow enough.
    argv = [sys.executable, "-m", "compileall", "-q", "-j", "2", "-s", str(root), "-p", "/"]
    run([*argv, "-x", "/(test|idlelib|lib2to3|tkinter|turtledemo|ensurepip)/", str(root / "usr/lib/python3.11")])
    for name in ("init.sh", "wait.py"):
        shutil.copy(GUEST / name, root / "opt/vm" / name)
        (root / "opt/vm" / name).chmod(0o755)
    (root / "opt/vm/preload.json").write_text(json.dumps(_PRELOADED))


def _distributions() -> set[str]:
    """The Python packages of the guest: those named above and what they require, as installed here."""
    found: set[str] = set()
    waiting = list(_DEPENDENCIES)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for requirement in importlib.metadata.requires(name) or []:
            if ";" not in requirement:  # what needs a condition is not needed here
                waiting.append(re.split(r"[^A-Za-z0-9._-]", requirement)[0])
    return found


def initrd(root: Path, version: str, target: Path, script: Path) -> None:
    """The initial RAM disk: the drivers of the disk, busybox, and `script` as the first program."""
    listed = run(["modprobe", "-d", str(root), "-S", version, "--show-depends", "-a", *_INITRD_MODULES])
    lines = [line.split()[1] for line in listed.splitlines() if line.startswith("insmod")]
    modules = [Path(line) for line in dict.fromkeys(lines)]
    files: dict[str, bytes] = {"bin/busybox": (root / "usr/bin/busybox").read_bytes()}
    files |= {f"modules/{module.name}": module.read_bytes() for module in modules}
    files["modules.list"] = "\n".join(f"/modules/{module.name}" for module in modules).encode()
    files["init"] = script.read_bytes()
    with open(target, "wb") as archive:
        for number, name in enumerate(("bin", "modules", "dev", "proc", "sys", "root")):
            archive.write(_cpio(name, b"", 0o40755, number + 1))
        for number, (name, content) in enumerate(files.items()):
            archive.write(_cpio(name, content, 0o100755, number + 100))
        archive.write(_cpio("TRAILER!!!", b"", 0, 0))


def _cpio(name: str, content: bytes, mode: int, inode: int) -> bytes:
    """One entry of a cpio archive in the `newc` format, as the kernel reads it (initramfs buffer format)."""
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


if __name__ == "__main__":
    print(built(lambda text: print(text, file=sys.stderr, flush=True)).folder)
