"""What a machine must have before a stack is started on it, each with one sentence that says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

from localcloud.linux import run
from localcloud.nodes.inside.configuration import DockerPrograms, EngineName
from localcloud.stack.pool import GIB, LEAST_FREE_BYTES
from perdure.domain.errors import CommandFailed, StackError
from perdure.settings import CRIU_PREFIX

PROGRAMS = ("runc", "unshare", "nsenter", "ip", "mount", "losetup", "mkfs.xfs")
DOCKER_PROGRAMS = (DockerPrograms().dockerd, DockerPrograms().init, "containerd", "containerd-shim-runc-v2")
CRIU_CHECK_LIMIT_SECONDS = 180.0


def require_root() -> None:
    """Raises StackError for anyone but root."""
    if os.geteuid() != 0:
        raise StackError("a local stack needs root, as it makes namespaces, mounts and cgroups: run this with sudo")


def check_machine(base: Path, engine: EngineName = "runc") -> None:
    """Raises StackError for the first thing that is missing. `base`: the folder of all stacks (made when absent)."""
    require_root()
    programs = PROGRAMS + (DOCKER_PROGRAMS if engine == "docker" else ())
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise StackError(f"`{missing[0]}` is not installed; run `make setup`")
    _check_file_systems()
    base.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(base).free
    if free < LEAST_FREE_BYTES:
        raise StackError(
            f"{base} has {free / GIB:.1f} GiB free and a stack needs {LEAST_FREE_BYTES // GIB}; free some space, or "
            "name another folder with PERDURE_LOCAL_DIR"
        )
    _check_criu()


def find_temporal() -> Path:
    """The Temporal dev server: beside our Python, else on PATH. Raises StackError."""
    beside = Path(sysconfig.get_path("scripts")) / "temporal"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("temporal")
    if not found:
        raise StackError("no `temporal` program is installed; run `make setup`, or name a server with TEMPORAL_ADDRESS")
    return Path(found)


def _check_file_systems() -> None:
    for name in ("xfs", "overlay"):
        if not _kernel_has(name):
            subprocess.run(["modprobe", "-q", name], check=False, timeout=120)
            if not _kernel_has(name):
                raise StackError(f"this kernel has no {name} file system, which a stack cannot do without")
    if not Path("/dev/loop-control").exists():
        subprocess.run(["modprobe", "-q", "loop"], check=False, timeout=120)
        if not Path("/dev/loop-control").exists():
            raise StackError("this machine has no loop devices; volumes are made of them, so load the `loop` module")


def _kernel_has(name: str) -> bool:
    return name in Path("/proc/filesystems").read_text().split()


def _check_criu() -> None:
    criu = CRIU_PREFIX / "bin" / "criu"
    if not criu.exists():
        raise StackError(f"CRIU is not installed in {CRIU_PREFIX}; run `make setup`")
    try:
        run([str(criu), "check"], CRIU_CHECK_LIMIT_SECONDS)
    except CommandFailed as problem:
        words = (problem.stderr.strip().splitlines() or ["no message"])[-1]
        raise StackError(f"`criu check` says that this kernel cannot freeze processes: {words}") from problem
