"""The agent's side of the page sink: one process for each checkpoint (perdure/image/pages/sink.py says what it does).

It is a program of its own, so that its memory goes with it and nothing of it holds up the event loop of a node. On a
busy node loading the program takes longer than all that it does before the freeze. So an agent keeps some loaded that
know of no checkpoint yet (`SparePageSinks`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydantic import TypeAdapter

from perdure.domain.checkpoints import ImageFile
from perdure.domain.errors import CheckpointFailed, JobRootFull
from perdure.image.pages.pipes import release_writers
from perdure.image.pages.sink import Request
from worker_agent.engine.commands import complete
from worker_agent.engine.threads import urgently

log = structlog.get_logger()

_START = 30.0
"""Seconds in which it must be ready: it reads the base's indexes and takes its memory."""
_POLL = 0.05
_DEATH_NEWS = 0.5
"""Seconds after which the death that made a dump fail is surely known."""
_LONGEST_ANSWER = 64 << 20
"""Bytes; one line that names every pages file."""
_FILES = TypeAdapter(list[ImageFile])


@dataclass(frozen=True)
class Assembled:
    """What became of the pages: their files, the bytes that went to the disk for them, how many extents they have,
    and the seconds in which the disk took those bytes."""

    files: list[ImageFile]
    written_bytes: int
    extents: int
    write_seconds: float


class PageSink:
    """One that runs. Every call raises CheckpointFailed (JobRootFull) if it failed or died: it is of no use then."""

    def __init__(self, process: asyncio.subprocess.Process, said: int) -> None:
        self._process = process
        self._said = said
        self._images: Path | None = None
        self.base_bytes = 0
        self.doubt = ""
        """Why nothing is shared although there is a base."""

    @classmethod
    async def start(cls, request: Request, spares: SparePageSinks | None = None) -> PageSink:
        """It is ready for the job's pages when this returns. One of the `spares` if there is any."""
        sink = spares.take() if spares is not None else None
        if sink is None:
            sink = await cls.launch()
        try:
            await sink._begin(request)
        except BaseException:
            await complete(sink.end())
            raise
        return sink

    @classmethod
    async def launch(cls) -> PageSink:
        """A program that waits for what it is to do. It ends with this process, whatever ends that."""
        said = os.memfd_create("sink")
        argv = [sys.executable, "-m", "perdure.image.pages"]
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=said,
                start_new_session=True,
                limit=_LONGEST_ANSWER,
            )
        except BaseException as error:
            os.close(said)
            if isinstance(error, OSError):
                raise CheckpointFailed(f"the page sink cannot be started: {error}", "sink") from error
            raise
        return cls(process, said)

    async def _begin(self, request: Request) -> None:
        self._images = Path(request.checkpoint) / request.images
        answer = await self._ask(request.line(), limit_seconds=_START)
        self.base_bytes, self.doubt = int(str(answer["base_bytes"])), str(answer["doubt"])

    @property
    def ended(self) -> bool:
        """Is it known to have ended?"""
        return self._process.returncode is not None

    async def predump(self, pids: Iterable[int]) -> int:
        """Read these processes' memory while they run and write what is new, until all is read or `hurry`; the bytes
        that were new."""
        answer = await self._ask(f"predump {' '.join(map(str, pids))}")
        return int(str(answer["staged_bytes"]))

    def hurry(self) -> None:
        """A predump ends at once, and what is new is written without delay."""
        self._say("hurry")

    async def pipes(self, count: int) -> None:
        """The folder of images has pipes for so many pages files: the dump may begin."""
        await self._ask(f"pipes {count}", limit_seconds=_START)

    async def captured(self) -> None:
        """The dump has ended. When this returns every page has been taken, and the job may go on."""
        await self._ask("written")

    async def finish(self) -> Assembled:
        """Put the pages files together. They are durable after a syncfs."""
        answer = await self._ask("finish")
        files = _FILES.validate_python(answer["finished"])
        written, extents, seconds = (str(answer[name]) for name in ("written_bytes", "extents", "write_seconds"))
        return Assembled(files, int(written), int(extents), float(seconds))

    async def failed(self) -> bool:
        """Did it fail, or die a moment ago?"""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _DEATH_NEWS)
        return self.ended

    async def watch(self) -> None:
        """For ever: should it die, the dump fails instead of waiting for a reader."""
        await self._process.wait()
        while True:
            await urgently(self.release_writers)
            await asyncio.sleep(_POLL)

    def release_writers(self) -> None:
        """Whoever waits for it to read fails. From any thread, when it is dead."""
        if self._images is not None:
            release_writers(self._images)

    def kill(self) -> None:
        """From any thread."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self) -> None:
        """It is gone when this returns. Idempotent."""
        if self._said < 0:
            return
        if not self.ended:  # else another program may have its number by now
            self.kill()
        await self._process.wait()
        os.close(self._said)
        self._said = -1

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._process.stdin.write(line.encode() + b"\n")

    async def _ask(self, line: str, limit_seconds: float | None = None) -> dict[str, object]:
        assert self._process.stdout is not None
        self._say(line)
        try:
            async with asyncio.timeout(limit_seconds):
                answer = await self._process.stdout.readline()
        except TimeoutError as error:
            raise CheckpointFailed("the page sink did not answer", "sink") from error
        whole = answer.endswith(b"\n")
        found: dict[str, object] = json.loads(answer) if whole else {"failed": await self._last_words()}
        if "failed" in found:
            kind = JobRootFull if found.get("full") else CheckpointFailed
            raise kind(f"the page sink failed: {found['failed']}", "sink")
        return found

    async def _last_words(self) -> str:
        status = await self._process.wait()
        said = os.pread(self._said, 4096, max(0, os.fstat(self._said).st_size - 4096)).decode("utf-8", "replace")
        return f"it ended with status {status} {said.strip()[-500:]}"


class SparePageSinks:
    """Programs that are loaded and know of no checkpoint yet: each serves one, and then goes as any other. On one event
    loop. Without them each checkpoint starts its own."""

    def __init__(self) -> None:
        self._loaded: list[PageSink] = []
        self._changing: set[asyncio.Task[None]] = set()

    @property
    def loaded(self) -> int:
        """How many there are."""
        return sum(not sink.ended for sink in self._loaded)

    def keep(self, count: int) -> None:
        """There are to be so many. Returns at once; what cannot be started is tried again by the next call."""
        gone = [sink for sink in self._loaded if sink.ended]
        stay = [sink for sink in self._loaded if not sink.ended]
        self._loaded, gone = stay[:count], gone + stay[count:]
        for sink in gone:
            self._begin(sink.end())
        if len(self._loaded) < count and not self._changing:
            self._begin(self._load(count - len(self._loaded)))

    def take(self) -> PageSink | None:
        """The caller's from now on."""
        while self._loaded:
            sink = self._loaded.pop(0)
            if not sink.ended:
                return sink
            self._begin(sink.end())
        return None

    async def end(self) -> None:
        """None is left when this returns."""
        while self._changing:
            await asyncio.wait(self._changing)
        for sink in self._loaded:
            await sink.end()
        self._loaded.clear()

    async def _load(self, count: int) -> None:
        for _ in range(count):
            try:
                self._loaded.append(await PageSink.launch())
            except CheckpointFailed as error:
                log.warning("no page sink could be loaded beforehand", reason=str(error))
                return

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._changing.add(task)
        task.add_done_callback(self._changing.discard)
