"""One program of a stack: started in the stack's cgroup, restarted when it ends, stopped by its pid."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from localcloud.cgroups import Cgroup

log = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
HOLD_POLL_SECONDS = 0.2


@dataclass
class Program:
    """`on_change` is called with the new pid after each start. One that is merely stopped or slow is left alone.

    `essential`: not restarted; `lost` is set instead. While `hold_file` exists a program that ended stays so (for
    tests that need it away).
    """

    name: str
    argv: list[str]
    environment: dict[str, str]
    log_file: Path
    hold_file: Path
    cgroup: Cgroup
    on_change: Callable[[str, int], None]
    essential: bool = False
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    _process: asyncio.subprocess.Process | None = None
    _watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and keep it running from now on."""
        self._process = await self._spawn()
        self._watch = asyncio.create_task(self._keep(self._process), name=self.name)

    @property
    def running(self) -> bool:
        """Whether its process lives now."""
        return self._process is not None and self._process.returncode is None

    async def stop(self, grace_seconds: float) -> None:
        """SIGTERM, SIGKILL after the grace; not restarted. Idempotent."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), grace_seconds)
        except TimeoutError:
            log.warning("%s did not end in %g s after SIGTERM; killed", self.name, grace_seconds)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        while True:
            status = await process.wait()
            log.warning("%s ended with %s; see %s", self.name, status, self.log_file)
            if self.essential:
                self.lost.set()
                return
            await asyncio.sleep(RESTART_SECONDS)
            while self.hold_file.exists():
                await asyncio.sleep(HOLD_POLL_SECONDS)
            process = self._process = await self._spawn()

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self.log_file.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *self.cgroup.enter(self.argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.environment,
                start_new_session=True,
            )
        self.on_change(self.name, process.pid)
        return process
