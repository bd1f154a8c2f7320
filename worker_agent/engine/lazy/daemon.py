"""The agent's side of a lazy restore: begin one, and know how far it is.

What is promised. No page reaches the job unverified. While pages are missing no checkpoint is taken of the job, so the
one that it came from stays its newest, whole. If the program that serves the pages fails or dies, the job is ended and
never runs on with zeros; Batch's next attempt restores the same checkpoint whole, or an older one if it is damaged.

All that is known lies in the container's work folder, so that an agent which starts anew knows it too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

from perdure.domain.checkpoints import ManifestHead
from perdure.domain.errors import CheckpointFailed, ImageInvalid, RestoreFailed, TooLate
from worker_agent import proc
from worker_agent.engine import job_root as roots
from worker_agent.engine import tasks
from worker_agent.engine.commands import complete
from worker_agent.engine.container import Container
from worker_agent.engine.lazy import images
from worker_agent.engine.lazy.images import NotLazy
from worker_agent.engine.threads import urgently
from worker_agent.freezer import Freezer
from worker_agent.lazy_pages.guard import NAME, RESTORE_WHOLE, STATE, Charge, State
from worker_agent.lazy_pages.program import LISTENS

FLAG = "--lazy-pages"
"""Of runc restore and of criu restore."""
PROGRAM = "worker_agent.lazy_pages"
LOG = "lazy.log"
"""What the program said, beside the container's work folder: in it, it would be taken for a left-over."""
_START = 60.0
"""Seconds in which the program must listen."""
_SOUND = 120.0
"""Seconds in which what CRIU read itself must be verified."""
_POLL = 0.02
_WORDS = 500


class Program:
    """The program beside a job that is about to be restored lazily. Its own start takes a while, so it begins before
    anybody knows what it is to do."""

    def __init__(self, process: subprocess.Popen[bytes], said: BinaryIO) -> None:
        self._process = process
        self._said = said

    @classmethod
    async def start(cls, container: Container) -> Program:
        """It is on its way. OSError."""
        return await asyncio.to_thread(cls._start, container.work_dir.parent)

    @classmethod
    def _start(cls, folder: Path) -> Program:
        said = open(folder / LOG, "w+b")  # noqa: SIM115
        argv = [sys.executable, "-m", PROGRAM]
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, start_new_session=True
            )
        except BaseException:
            said.close()
            raise
        return cls(process, said)

    async def begin(self, container: Container, manifest: ManifestHead) -> None:
        """When this returns, CRIU may restore this checkpoint with FLAG. NotLazy if it should not, or cannot; the
        program is gone then."""
        folder = roots.store(container.job_root).folder(manifest.number)
        try:
            request = await asyncio.to_thread(_request, container, folder, manifest)
            await complete(asyncio.to_thread(self._ask, request))
        except (ImageInvalid, OSError) as problem:
            raise NotLazy(str(problem)) from problem

    def _ask(self, request: bytes) -> None:
        try:
            answer, _ = self._process.communicate(request, _START)
        except subprocess.TimeoutExpired:
            answer = b""
        if answer != LISTENS:
            self._kill()
            self._said.seek(0)
            words = self._said.read().decode("utf-8", "replace").strip()[-_WORDS:]
            raise NotLazy(f"the program that brings memory in does not start: {words or 'it did not listen in time'}")

    async def end(self) -> None:
        """Nothing of it is left, unless `begin` went well. Idempotent."""
        await complete(asyncio.to_thread(self._end))

    def _end(self) -> None:
        if self._process.returncode is None:
            self._kill()
        self._said.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def _request(container: Container, folder: Path, manifest: ManifestHead) -> bytes:
    if not container.cgroup:
        raise NotLazy("its cgroup has no known name")
    if (folder / RESTORE_WHOLE).exists():
        raise NotLazy("it failed once before")
    plan = images.plan(folder, manifest)
    freezer = Freezer.of_cgroup(container.cgroup)
    charge = Charge(str(container.work_dir), str(folder), str(freezer.path), freezer.unified)
    request = {
        "charge": vars(charge),
        "images": [image.model_dump() for image in manifest.images if image.path in plan.files],
        "later": plan.later,
        "at_once": plan.at_once,
    }
    return json.dumps(request).encode()


def look(container: Container) -> State | None:
    """How far it is; None for a container that was not restored lazily. A program that died without a word is known by
    its absence. Reads /proc: not for the event loop."""
    try:
        state = State(**json.loads((container.work_dir / STATE).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as problem:
        return State("failed", 0, f"its state cannot be read: {problem}")
    if state.stage in ("serving", "sound") and not _lives(state.pid):
        again = (container.work_dir / STATE).read_text()  # it may have said its last word just now
        if again == json.dumps(vars(state)):
            return State("failed", state.pid, "the program that brings the memory in died")
        return State(**json.loads(again))
    return state


def _lives(pid: int) -> bool:
    return proc.command(pid) == NAME and not tasks.ends(pid)


async def is_sound(container: Container) -> bool:
    """Until what CRIU read itself was found sound: True. False for a container that is not restored lazily.
    RestoreFailed."""
    end = time.monotonic() + _SOUND
    while (state := await urgently(look, container)) is not None:
        if state.stage in ("sound", "drained"):
            return True
        if state.stage != "serving" or time.monotonic() > end:
            reason = state.reason or "the pages were not verified in time"
            raise RestoreFailed(f"it could not be restored while its memory comes in: {reason}", "lazy")
        await asyncio.sleep(_POLL)
    return False


async def whole(container: Container, *, limit_seconds: float, number: int | None) -> None:
    """Until nothing of the job's memory is missing: before that, no checkpoint can be taken of it. At once for a
    container that was not restored lazily. TooLate after `limit_seconds`; CheckpointFailed if the job is being ended.
    `number`: the checkpoint that it came from."""
    end = time.monotonic() + limit_seconds
    while (state := await urgently(look, container)) is not None and state.stage != "drained":
        if state.stage in ("failed", "left"):
            raise CheckpointFailed(f"the memory of the job did not come in: {state.reason}", "memory")
        if time.monotonic() > end:
            said = f"after a lazy restore, its memory was not all there within {limit_seconds:.0f} s: checkpoint"
            raise TooLate(f"{said} {number} stays its newest, whole", "memory")
        await asyncio.sleep(_POLL)


def ended_by_us(container: Container) -> str:
    """Why the job was ended, if that was because its memory did not come in; empty if not. Blocks shortly."""
    state = look(container)
    return state.reason if state is not None and state.stage == "failed" else ""
