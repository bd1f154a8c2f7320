"""Running one rehearsal in namespaces of its own, at the lowest priority; and ending it at once, with all that it made.

Everything that runs in it is in one pid namespace, whose first process is stage.py: its death is everybody's death. Its
mounts and its network go with their namespaces. What is left is a folder on the job root and a cgroup (remains.py).
"""

from __future__ import annotations

import asyncio
import os
import sys

import structlog

from perdure.domain.checkpoints import RehearsalVerdict
from worker_agent.engine.commands import complete
from worker_agent.rehearse.remains import end_processes, stage_argv, tidy
from worker_agent.rehearse.spec import Answer, Spec

log = structlog.get_logger()

_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
PRIORITY = ("ionice", "-c", "3", "chrt", "--idle", "0", "nice", "-n", "19")
NAMESPACES = (
    *("unshare", "--mount", "--propagation", "slave", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
)
"""`slave`: what the node unmounts is unmounted here too."""


async def run_stage(spec: Spec, limit_seconds: float) -> Answer:
    """The verdict of one rehearsal. After `limit_seconds` it was not tried. When cancelled, everything of it is gone
    before the cancellation goes on. Blocks nobody."""
    try:
        left = await complete(asyncio.to_thread(make_folder, spec))
        if left:
            return Answer(verdict=RehearsalVerdict.NOT_TRIED, reason=f"an earlier rehearsal is in its way: {left}")
        return await _run(spec, limit_seconds)
    finally:
        await complete(asyncio.to_thread(tidy, spec.job_root, spec.container_id))


def make_folder(spec: Spec) -> str:
    """Where it works, with what it is told. In words what is in the way; empty: it is made. Blocks."""
    left = tidy(spec.job_root, spec.container_id)
    if not left:
        for folder in (spec.folder, spec.folder / "work"):
            folder.mkdir(mode=0o700)
        (spec.folder / "spec.json").write_text(spec.model_dump_json())
    return left


async def _run(spec: Spec, limit_seconds: float) -> Answer:
    python = (sys.executable, *stage_argv(spec.folder))
    out, err = os.memfd_create("stdout"), os.memfd_create("stderr")
    try:
        process = await asyncio.create_subprocess_exec(
            *(*_DIES_WITH_US, *PRIORITY, *NAMESPACES, *python),
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
    """Everything of it is dead when this returns, or waits in the kernel for what may never come."""
    if not await asyncio.to_thread(end_processes, spec.folder, spec.container_id):
        await process.wait()
