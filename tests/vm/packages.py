"""Debian packages for the virtual machine, by the machine's own apt configuration and without telling its dpkg."""

from __future__ import annotations

import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_LEFT_OUT = ("doc", "man", "locale", "info", "lintian", "bug", "postgresql/15/man")
"""Folders of /usr/share that nothing in a test reads."""
_LIMIT = 600.0


def run(argv: list[str], limit_seconds: float = _LIMIT) -> str:
    """Run a program that must succeed; its output."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=limit_seconds, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv[:4])} … failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def closure(names: list[str], *, empty: bool) -> dict[str, str]:
    """File name → name of every package that installing `names` would fetch: on this machine, or (`empty`) on one that
    has nothing yet."""
    with tempfile.TemporaryDirectory(prefix="perdure-vm-apt-") as folder:
        (Path(folder) / "archives/partial").mkdir(parents=True)
        (Path(folder) / "status").touch()
        status = ["-o", f"Dir::State::status={folder}/status"] if empty else []
        argv = ["apt-get", "-q", "-y", *status, "-o", f"Dir::Cache={folder}", "-o", "APT::Install-Recommends=false"]
        listed = run([*argv, "--print-uris", "install", *names])
    files = [line.split()[1] for line in listed.splitlines() if line.startswith("'")]
    return {file: file.partition("_")[0] for file in files}


def download(files: dict[str, str], folder: Path) -> list[Path]:
    """The .deb files, fetched into `folder` unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [f"{name}={_version(file)}" for file, name in files.items() if not (folder / file).exists()]
    if wanted:
        argv = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *wanted]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=_LIMIT, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"apt could not download: {done.stderr.strip()[-500:]}")
    return [folder / file for file in files]


def _version(file: str) -> str:
    return file.split("_")[1].replace("%3a", ":")


def unpack(debs: list[Path], root: Path) -> None:
    """Unpack packages below `root`, whose /bin, /lib and /sbin are links into /usr. No script of theirs runs."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (root / name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    excluded = [f"--exclude=./usr/share/{name}/*" for name in _LEFT_OUT]

    def one(deb: Path) -> None:
        # tar and not `dpkg-deb -x`, which would replace the links by folders.
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as source:
            argv = ["tar", "-x", "--keep-directory-symlink", "-p", "-C", str(root), *excluded]
            done = subprocess.run(argv, stdin=source.stdout, capture_output=True, timeout=_LIMIT, check=False)
        if done.returncode != 0 or source.returncode != 0:
            raise RuntimeError(f"{deb.name} was not unpacked: {done.stderr.decode()[-300:]}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, debs))
