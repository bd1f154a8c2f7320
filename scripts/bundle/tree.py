"""What lies in one version's folder on an instance:

bin/            perdure, perdure-agent, perdure-runtime(-nvidia), perdure-install, python3
lib/python3.11  Debian's Python, the agent's packages (dist-packages) and the agent itself
lib/system      loader and libraries of Python and of the tools
tools/          mkfs.xfs, nft, … for instances that lack them
criu/           CRIU with loader and libraries of its own, in the layout that scripts/criu_prefix.sh makes
share/          systemd units, the installer's editor of configuration files, licences, contents.cdx.json
"""

from __future__ import annotations

import compileall
import os
import platform
import py_compile
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import perdure
from scripts.bundle.debian import BuildFailed, run, unpack
from scripts.bundle.programs import Libraries, is_elf

ROOT = Path(__file__).parents[2]
PREFIX = Path("/opt/perdure")
"""Fixed: programs name their loader by an absolute path, and Docker's configuration names the runtime below it."""
PYTHON = "python3.11"
PYTHON_PACKAGES = [f"{PYTHON}-minimal", f"lib{PYTHON}-stdlib", "libgcc-s1", "libstdc++6"]
TOOLS = {
    "xfsprogs": ["usr/sbin/mkfs.xfs", "usr/sbin/xfs_growfs", "usr/sbin/xfs_logprint", "usr/sbin/xfs_repair"],
    "nftables": ["usr/sbin/nft"],
    "util-linux": ["usr/sbin/blkid"],
    "iproute2": ["usr/bin/ip", "usr/bin/ss"],
    "tar": ["usr/bin/tar"],
}
"""Debian 12's: an xfsprogs of today makes file systems that Amazon Linux 2023's kernel 6.1 cannot mount."""
_UNUSED_MODULES = (
    *("test", "idlelib", "lib2to3", "tkinter", "turtledemo", "turtle.py", "ensurepip", "pydoc_data", "distutils"),
    *("venv", "curses", "dbm", "msilib", "sqlite3", "config-3.11-*"),
)
_UNUSED_EXTENSIONS = {
    *("_curses", "_curses_panel", "_dbm", "_tkinter", "readline", "nis", "_sqlite3", "_ctypes_test", "ossaudiodev"),
}
_NEVER_RUN = ("temporalio/bridge/sdk-core", "temporalio/bridge/src", "zstandard/_cffi.*", "zstandard/backend_cffi.py")
"""Of wheels: the sources of what is there compiled, and what zstandard is on a PyPy."""
_LEXERS = {"__init__.py", "_mapping.py", "python.py", "special.py"}
"""Of the five hundred languages that pygments knows: what rich shows of a traceback."""
_OUR_PACKAGES = ("perdure", "worker_agent")
_COMMANDS = """[perdure.commands]
preflight = worker_agent.preflight.command:command
doctor = perdure.cli.doctor:doctor

[perdure.doctors]
instance = worker_agent.doctor.command:on_this_instance
"""
_AWS_SERVICES = ("s3", "sts")
"""What the agent's store asks for. botocore brings the descriptions of four hundred services."""
_NOT_ON_INSTANCES = ("records", "account")
"""Parts of `perdure` that the agent may not import (pyproject's import contracts)."""
PLATFORMS = {
    "x86_64": ("amd64", ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]),
    "aarch64": ("arm64", ["manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"]),
}


@dataclass(frozen=True)
class Inputs:
    """All that goes into one bundle."""

    architecture: str
    base: list[Path]
    """Debian 12's packages for Python and tools."""
    criu: list[Path]
    wheels: list[Path]


def build(inputs: Inputs, release: str, tree: Path, scratch: Path) -> None:
    """Fill `tree`, which becomes PREFIX/versions/<release> on an instance."""
    final = PREFIX / "versions" / release
    base = scratch / "base"
    unpack(inputs.base, base)
    libraries = Libraries(base, tree / "lib/system", final / "lib/system")
    _python(base, tree, libraries)
    _wheels(inputs, tree, libraries)
    _ours(tree, release)
    for program in (name for names in TOOLS.values() for name in names):
        libraries.program(base / program, tree / "tools" / Path(program).name)
    sid = scratch / "sid"
    unpack(inputs.criu, sid)
    criu = Libraries(sid, tree / "criu/lib", final / "criu/lib")
    criu.program(sid / "usr/sbin/criu", tree / "criu/libexec/criu")
    criu.bring("libgcc_s.so.1")  # glibc loads it when a thread ends
    _launchers(tree, final)
    _licences([base, sid], tree)
    _compile(tree, final)


def _python(base: Path, tree: Path, libraries: Libraries) -> None:
    libraries.program(base / "usr/bin" / PYTHON, tree / "bin/python3")
    library = tree / "lib" / PYTHON
    ignore = shutil.ignore_patterns(*_UNUSED_MODULES, "__pycache__")
    shutil.copytree(base / "usr/lib" / PYTHON, library, ignore=ignore)
    modules = library / "lib-dynload"
    for path in modules.iterdir():
        name = path.name.split(".")[0]
        if name in _UNUSED_EXTENSIONS or name.startswith(("_test", "_xx", "xx")):
            path.unlink()
    libraries.add(path for path in modules.iterdir() if is_elf(path))


def _wheels(inputs: Inputs, tree: Path, libraries: Libraries) -> None:
    packages = tree / "lib" / PYTHON / "dist-packages"
    for wheel in inputs.wheels:
        # Not by pip: these may be another architecture's, and scripts and data of a wheel are not wanted.
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(packages)
    unused = [path for pattern in ("*.data", *_NEVER_RUN) for path in packages.glob(pattern)]
    unused += [path for path in (packages / "botocore/data").glob("*/") if path.name not in _AWS_SERVICES]
    unused += [path for path in (packages / "pygments/lexers").iterdir() if path.name not in _LEXERS]
    for path in unused:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    binaries = [path for path in packages.rglob("*.so*") if is_elf(path)]
    libraries.add(binaries, own=binaries)
    # Some come with what a debugger reads, a fifth of the archive. The machine's strip knows its own programs only.
    if inputs.architecture == platform.machine():
        run(["strip", "--strip-unneeded", *map(str, binaries)])


def _ours(tree: Path, release: str) -> None:
    packages = tree / "lib" / PYTHON / "dist-packages"
    for name in _OUR_PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__", *(_NOT_ON_INSTANCES if name == "perdure" else ()))
        shutil.copytree(ROOT / name, packages / name, symlinks=True, ignore=ignore)
    (packages / "worker_agent/runtime/python3").symlink_to("../../../../../bin/python3")
    about = packages / f"perdure-{perdure.__version__}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: perdure\nVersion: {perdure.__version__}\n")
    (about / "entry_points.txt").write_text(_COMMANDS)
    worker = ROOT / "deploy/worker"
    for name in ("edit_files.py", "perdure-agent.service", "perdure-undo-docker.service", "docker.conf"):
        (tree / "share").mkdir(exist_ok=True)
        shutil.copy(worker / name, tree / "share" / name)
    shutil.copy(ROOT / "LICENSE", tree / "share/LICENSE")
    (tree / "share/release").write_text(release + "\n")


def _launchers(tree: Path, final: Path) -> None:
    """Small shell scripts. They name this very version's folder, so that a switched link does not mix two versions."""
    runtime = f"../lib/{PYTHON}/dist-packages/worker_agent/runtime"
    for name in ("perdure-runtime", "perdure-runtime-nvidia"):
        (tree / "bin" / name).symlink_to(f"{runtime}/{name}")
    ours = (
        f"PATH=${{PATH:-/usr/sbin:/usr/bin:/sbin:/bin}}:{final}/tools\n"
        f"PERDURE_CRIU=${{PERDURE_CRIU:-{final}/criu/bin/criu}}\n"
        f"PERDURE_CRIU_PATH_FIRST=${{PERDURE_CRIU_PATH_FIRST:-{final}/criu/path}}\n"
        "export PATH PERDURE_CRIU PERDURE_CRIU_PATH_FIRST\n"
    )
    command = "-c 'from perdure.cli.main import main; main()'"
    _script(tree / "bin/perdure", f'{ours}exec {final}/bin/python3 -I {command} "$@"\n')
    _script(tree / "bin/perdure-agent", f"{ours}exec {final}/bin/python3 -I -m worker_agent\n")
    _script(
        tree / "bin/perdure-await",
        "# Waits until the agent listens; systemd's time-out ends it.\n"
        "until [ -S /run/perdure/agent.sock ]; do sleep 0.2; done\n",
    )
    shutil.copy(ROOT / "deploy/worker/perdure-install", tree / "bin/perdure-install")
    # As scripts/criu_prefix.sh writes them: CRIU's `tar --gzip` of a tmpfs takes most of a small dump's time.
    _script(tree / "criu/path/gzip", "exec cat\n")
    criu = f'PATH={final}/criu/path:$PATH\nexport PATH\nexec {final}/criu/libexec/criu "$@"\n'
    _script(tree / "criu/bin/criu", criu)


def _script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


def _licences(roots: list[Path], tree: Path) -> None:
    """Of every package that was unpacked, whether or not a file of it is left."""
    target = tree / "share/licences"
    for root in roots:
        for copyright in sorted((root / "usr/share/doc").glob("*/copyright")):
            place = target / f"{copyright.parent.name}.txt"
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists() and copyright.exists():
                shutil.copyfile(copyright, place)


def _compile(tree: Path, final: Path) -> None:
    """Once and for all, and not by the files' times, so that two builds are the same bytes."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    library = tree / "lib" / PYTHON
    if sys.version_info[:2] != (3, 11):
        raise BuildFailed("the bundle's Python is 3.11, and only a 3.11 can compile for it: run this with Python 3.11")
    os.environ.setdefault("PYTHONHASHSEED", "0")
    done = compileall.compile_dir(
        library, quiet=2, workers=2, stripdir=str(tree), prependdir=str(final), invalidation_mode=mode
    )
    if not done and not (library / "__pycache__/os.cpython-311.pyc").exists():
        raise BuildFailed("the bundle's Python files could not be compiled")
