"""Running one rehearsal in namespaces of its own, at the lowest priority; and ending it at once, with all that it made.

Everything that runs in it is in one pid namespace, whose first process is stage.py: its death is everybody's death. Its
mounts and its network go with their namespaces. What is left is a folder on the job root and a cgroup: `tidy` removes
them, after the end of a rehearsal and when an agent starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import structlog

from perdure.domain.checkpoints import RehearsalVerdict
from perdure.domain.errors import CommandFailed, JobRootBusy
from perdure.image.mounts import delete_tree
from worker_agent.engine.commands import complete
from worker_agent.rehearse.spec import CGROUPS, FOLDER, Answer, Spec

log = structlog.get_logger()

_PRIORITY = ("setpriv", "--pdeathsig", "KILL", "ionice", "-c", "3", "chrt", "--idle", "0", "nice", "-n", "19")
_NAMESPACES = (
    *("unshare", "--mount", "--propagation", "slave", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
)
"""`slave`: what the node unmounts is unmounted here too."""
_CGROUP_TOP = Path("/sys/fs/cgroup")
_USUAL = {"cpu.shares": "1024", "cpu.weight": "100"}
_EMPTY = 5.0
"""Seconds in which the cgroup of ended processes must be empty."""
_POLL = 0.02


async def run_stage(spec: Spec, limit_seconds: float) -> Answer:
    """The verdict of one rehearsal. After `limit_seconds` it was not tried. When cancelled, everything of it is gone
    before the cancellation goes on. Blocks nobody."""
    await asyncio.to_thread(tidy, spec.job_root, spec.container_id)
    await asyncio.to_thread(_write, spec)
    try:
        return await _run(spec, limit_seconds)
    finally:
        await complete(asyncio.to_thread(tidy, spec.job_root, spec.container_id))


def _write(spec: Spec) -> None:
    for folder in (spec.folder, spec.folder / "work"):
        folder.mkdir(mode=0o700)
    (spec.folder / "spec.json").write_text(spec.model_dump_json())


async def _run(spec: Spec, limit_seconds: float) -> Answer:
    python = (sys.executable, "-m", "worker_agent.rehearse.stage", str(spec.folder / "spec.json"))
    out, err = os.memfd_create("stdout"), os.memfd_create("stderr")
    try:
        process = await asyncio.create_subprocess_exec(
            *(*_PRIORITY, *_NAMESPACES, *python),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            await asyncio.wait_for(asyncio.shield(process.wait()), limit_seconds)
        except TimeoutError:
            await complete(_cut(process, spec))
            said = f"it was not done after {limit_seconds:g} s at low priority: the instance is busy"
            return Answer(verdict=RehearsalVerdict.NOT_TRIED, reason=said)
        except asyncio.CancelledError:
            await complete(_cut(process, spec))
            raise
        answer = _text(out).strip()
        if process.returncode == 0 and answer:
            return Answer.model_validate_json(answer.splitlines()[-1])
        said = _text(err).strip()[-300:] or f"status {process.returncode}"
        log.warning("a rehearsal broke", job_id=spec.job_id, checkpoint=spec.number, reason=said)
        return Answer(verdict=RehearsalVerdict.NOT_TRIED, reason=f"it could not be rehearsed: {said}")
    finally:
        os.close(out)
        os.close(err)


def _text(descriptor: int) -> str:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode("utf-8", "replace")


async def _cut(process: asyncio.subprocess.Process, spec: Spec) -> None:
    """Everything of it is dead when this returns. What dies must be scheduled for that: it gets a usual priority."""
    await asyncio.to_thread(_hurry, spec)
    first = _children(process.pid)
    with contextlib.suppress(ProcessLookupError):
        for pid in first or [process.pid]:
            _usual(pid)
            os.kill(pid, signal.SIGKILL)
    await process.wait()


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _hurry(spec: Spec) -> None:
    for folder in _cgroups(spec.container_id):
        for name, value in _USUAL.items():
            with contextlib.suppress(OSError):
                (folder / name).write_text(value)
        with contextlib.suppress(OSError):
            for pid in (folder / "cgroup.procs").read_text().split():
                _usual(int(pid))


def _usual(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, pid, 0)


def _cgroups(container_id: str) -> list[Path]:
    """Those of that rehearsal, in each hierarchy (version 1) or in the only one (version 2)."""
    return [folder for top in (_CGROUP_TOP, *_hierarchies()) if (folder := top / CGROUPS / container_id).is_dir()]


def _hierarchies() -> list[Path]:
    return [folder for folder in _CGROUP_TOP.iterdir() if folder.is_dir() and not folder.is_symlink()]


def tidy(job_root: Path, container_id: str) -> bool:
    """Nothing of a rehearsal of that container is left on this node; False: something is. Its processes must be dead or
    about to be. Idempotent. Blocks."""
    end = time.monotonic() + _EMPTY
    while left := _cgroups(container_id):
        for folder in left:
            _remove(folder)
        if time.monotonic() > end:
            log.error("a rehearsal's cgroup is not empty", cgroup=str(left[0]))
            return False
        time.sleep(_POLL)
    while True:
        try:
            delete_tree(job_root / FOLDER)
        except (JobRootBusy, OSError, CommandFailed) as problem:
            if isinstance(problem, CommandFailed) and time.monotonic() < end:  # a process on its way out still writes
                time.sleep(_POLL)
                continue
            log.error("a rehearsal's folder was not removed", folder=str(job_root / FOLDER), reason=str(problem))
            return False
        return True


def _remove(folder: Path) -> None:
    """The cgroup, with those below it, and the one above it if nobody else needs that."""
    with contextlib.suppress(OSError):
        for place, _, _ in os.walk(folder, topdown=False):
            os.rmdir(place)
        os.rmdir(folder.parent)
