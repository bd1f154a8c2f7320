"""A small release: a real archive with the real installer and Python in it, but a stand-in for agent and CRIU. For what
the installer does when something goes wrong; that the real release works is test_life.py's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from scripts.bundle.release import archive, write_release
from scripts.bundle.signing import Signer
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
WORKER = ROOT / "deploy/worker"
_LINKED = ("ld-linux-", "libc.", "libm.", "libz.", "libexpat.")
"""Beginnings of the names of Python's own libraries."""
_LEFT_OUT = (
    *("asyncio", "unittest", "multiprocessing", "xml", "email", "http", "concurrent", "ctypes", "wsgiref", "xmlrpc"),
    *("html", "logging", "tomllib", "pydoc*", "_pydecimal*", "_pyio*", "dist-packages", "lib-dynload"),
    *("cp[0-9]*.py*", "mac_*", "iso*"),
)
"""What the editor of files does not import: most of the library."""


def small_release(folder: Path, real: Path, scratch: Path, number: str = "0.0.1-small") -> Path:
    """A release in `folder`, made of the unpacked `real` one."""
    tree = scratch / number
    (tree / "criu/bin").mkdir(parents=True)
    ignore = shutil.ignore_patterns(*_LEFT_OUT)
    shutil.copytree(real / "lib/python3.11", tree / "lib/python3.11", symlinks=True, ignore=ignore)
    (tree / "lib/system").mkdir()
    for library in (real / "lib/system").iterdir():
        if library.name.startswith(_LINKED):
            shutil.copy(library, tree / "lib/system")
    shutil.copytree(real / "share", tree / "share", ignore=shutil.ignore_patterns("licences"))
    (tree / "bin").mkdir()
    shutil.copy(real / "bin/python3", tree / "bin/python3")
    libraries = f"/opt/perdure/versions/{number}/lib/system"
    loader = next((tree / "lib/system").glob("ld-linux-*")).name
    argv = ["patchelf", "--set-interpreter", f"{libraries}/{loader}", "--force-rpath", "--set-rpath", libraries]
    subprocess.run([*argv, str(tree / "bin/python3")], check=True, timeout=PATIENCE)
    agent = tree / "lib/python3.11/dist-packages/worker_agent"
    agent.mkdir(parents=True)
    for name in ("__init__.py", "__main__.py"):
        (agent / name).touch()
    for name, text in {"criu/bin/criu": "exit 0", "bin/perdure-runtime": 'exec runc "$@"'}.items():
        (tree / name).write_text(f"#!/bin/sh\n{text}\n")
        (tree / name).chmod(0o755)
    shutil.copy(WORKER / "perdure-install", tree / "bin/perdure-install")
    for name in ("edit_files.py", "perdure-agent.service", "perdure-undo-docker.service", "docker.conf"):
        shutil.copy(WORKER / name, tree / "share" / name)
    folder.mkdir(parents=True, exist_ok=True)
    archive(tree, folder / f"perdure-worker-{number}-{_machine()}.tar.gz", level=1)
    write_release(folder, Signer.for_this_build())
    return folder


def _machine() -> str:
    return subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True, timeout=PATIENCE).stdout.strip()
