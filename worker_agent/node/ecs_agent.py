"""The instance's ECS agent, for the hand-over that Batch must not see: stopped, it reports no container's end.

Which commands do that, the installer says (`PERDURE_ECS_STOP`, `PERDURE_ECS_START`). A mark on the disk says that we
stopped it: should the instance not go after all, this agent or the next one starts it again.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import structlog

from perdure.domain.errors import CommandFailed, EcsAgentRuns
from perdure.settings import AgentSettings
from worker_agent.engine.commands import run

log = structlog.get_logger()

LIMIT = 30.0
"""Seconds that a stop or a start may take. `docker stop` alone gives a container ten before it kills it."""
_JOB = "AWS_BATCH_JOB_ID="
_LONGEST_CONFIG = 16 << 20


class EcsAgent:
    """Stopped once, for all jobs of the node together."""

    def __init__(self, settings: AgentSettings) -> None:
        self._stop, self._start = shlex.split(settings.ecs_stop), shlex.split(settings.ecs_start)
        self._runc = settings.runc
        self._mark = settings.state_dir / "ecs-stopped"
        self._lock = asyncio.Lock()

    @property
    def stopped_seconds(self) -> float | None:
        """How long ago we stopped it, this agent or one before it; None: it runs, as far as we are concerned."""
        try:
            return max(0.0, time.time() - self._mark.stat().st_mtime)
        except FileNotFoundError:
            return None

    async def stop(self) -> None:
        """It reports nothing from now on. EcsAgentRuns when it could not be stopped; a second call does nothing."""
        if not self._stop:
            raise EcsAgentRuns("this node does not know how to stop its ECS agent (PERDURE_ECS_STOP)")
        async with self._lock:
            if self.stopped_seconds is not None:
                return
            try:
                self._mark.parent.mkdir(parents=True, exist_ok=True)
                self._mark.touch()  # first: an agent that dies now starts it again, should the instance stay
            except OSError as problem:  # a full disk
                raise EcsAgentRuns(f"that the ECS agent is stopped could not be noted: {problem}") from problem
            try:
                await run(self._stop, limit_seconds=LIMIT)
            except CommandFailed as problem:
                await self._go_on()
                raise EcsAgentRuns(f"the ECS agent could not be stopped: {problem}") from problem
            log.warning("the ECS agent is stopped: Batch hears of this instance's end alone")

    async def start_again(self) -> None:
        """The instance did not go."""
        async with self._lock:
            if self.stopped_seconds is not None:
                await self._go_on()

    async def _go_on(self) -> None:
        """What can not be started is tried again at the next look."""
        try:
            if self._start:
                await run(self._start, limit_seconds=LIMIT)
        except CommandFailed as problem:
            log.error("the ECS agent could not be started again", problem=str(problem))
            return
        self._mark.unlink(missing_ok=True)

    async def other_jobs(self, roots: Iterable[str], ours: Iterable[str]) -> list[str]:
        """Containers of Batch jobs that run here without our protection: their ends must be reported. By container id.
        EcsAgentRuns when runc does not tell."""
        known, found = set(ours), []
        for root in sorted(set(roots)):
            try:
                listed = await run([self._runc, "--root", root, "list", "--format", "json"], limit_seconds=LIMIT)
                running = [one for one in json.loads(listed or "null") or [] if one["status"] != "stopped"]
            except (CommandFailed, ValueError, KeyError, TypeError) as problem:
                raise EcsAgentRuns(f"which containers run here is not known: {problem}") from problem
            others = [one for one in running if one["id"] not in known]
            found += [one["id"] for one in others if await asyncio.to_thread(_is_job, Path(one["bundle"]))]
        return found


def _is_job(bundle: Path) -> bool:
    """By its environment, as the runtime tells it. A container that cannot be read may be one."""
    try:
        with (bundle / "config.json").open("rb") as file:
            config: Any = json.loads(file.read(_LONGEST_CONFIG))
        return any(str(one).startswith(_JOB) for one in config["process"].get("env", []))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True
