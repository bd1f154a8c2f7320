"""Containers that the runtime ran without the agent, because nobody answered it: its notes become events."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import structlog

from worker_agent.container.bundle import JOB_ID
from worker_agent.tell.foundation import Foundation

log = structlog.get_logger()

_EVERY = 1.0
"""Seconds between two looks into the folder of notes."""


class UnprotectedNotes:
    """The notes in `<run dir>/unprotected`, one for each container. A note is removed once its event is stored."""

    def __init__(self, foundation: Foundation) -> None:
        self._folder = foundation.node.settings.run_dir / "unprotected"
        self._reporter = foundation.reporter

    async def collect(self) -> None:
        """For ever."""
        while True:
            for path in await asyncio.to_thread(lambda: sorted(self._folder.glob("*.json"))):
                await self._tell(path)
            await asyncio.sleep(_EVERY)

    async def _tell(self, path: Path) -> None:
        try:
            note = json.loads(await asyncio.to_thread(path.read_text))
            job_id, container_id, later = str(note["job_id"]), str(note["container_id"]), bool(note["later"])
            reason = str(note["reason"])[:500]
        except (OSError, ValueError, KeyError, TypeError) as problem:
            log.error("a note of the runtime is not understood", note=path.name, reason=str(problem))
            job_id = ""
        if JOB_ID.fullmatch(job_id):
            level = "error" if later else "warning"
            kept = "; it started anew, and its checkpoints are kept on the job volume" if later else ""
            await self._reporter.unprotected(job_id, container_id, reason + kept, level)
        await asyncio.to_thread(path.unlink, missing_ok=True)
