"""runc's commands as the engine uses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from perdure.domain.errors import CommandFailed, CommandTimeout
from worker_agent.engine.commands import run
from worker_agent.engine.container import Container

_CRIU_FLAGS = ("--tcp-established", "--file-locks", "--ext-unix-sk")
_SHORT = 30.0
"""Seconds for commands that only look or signal."""
_PAUSE_TRIES = 3


def _globals(container: Container) -> list[str]:
    root = ["--root", container.runc_root] if container.runc_root else []
    return [container.tools.runc, *root, "--criu", str(container.tools.criu)]


async def _runc(container: Container, *words: str, limit_seconds: float = _SHORT) -> str:
    argv = [*_globals(container), *words]
    return await run(argv, limit_seconds=limit_seconds, env=container.tools.environment())


async def pause(container: Container, *, limit_seconds: float = _SHORT) -> None:
    """Freeze the container's cgroup. CommandFailed if it does not run, CommandTimeout if it does not freeze.

    runc lets a cgroup go again that stays FREEZING, after a number of looks rather than a time: seen once on a machine
    that was ten times overloaded. The next try is as good as the first.
    """
    for tries_left in reversed(range(_PAUSE_TRIES)):
        try:
            await _runc(container, "pause", container.id, limit_seconds=limit_seconds)
            return
        except CommandTimeout:
            raise
        except CommandFailed as problem:
            if not tries_left or "unable to freeze" not in problem.stderr:
                raise


async def checkpoint(
    container: Container,
    images: Path,
    *,
    limit_seconds: float,
    give_up: Callable[[], None],
    grace_seconds: float,
) -> None:
    """Dump the paused container into `images`; it stays paused. The log is `dump.log` in the work folder.

    At the limit, or when cancelled, `give_up` is called; a dump that has not ended `grace_seconds` later is killed.
    """
    where = ["--image-path", str(images), "--work-path", str(container.work_dir)]
    argv = [*_globals(container), "checkpoint", "--leave-running", *where, *_CRIU_FLAGS, container.id]
    await run(
        argv,
        limit_seconds=limit_seconds,
        env=container.tools.environment(),
        give_up=give_up,
        grace_seconds=grace_seconds,
    )


def restore_argv(container: Container, images: Path) -> list[str]:
    """What follows `runc GLOBALS restore`; the caller adds `--bundle`, `--pid-file` and the container's id.

    No subreaper: the exit code must reach whoever made the container, as after a create.
    """
    where = ["--image-path", str(images), "--work-path", str(container.work_dir)]
    return ["--detach", "--no-subreaper", *where, *_CRIU_FLAGS]


async def pids(container: Container) -> list[int]:
    """The container's processes as runc sees them."""
    listed = json.loads(await _runc(container, "ps", "--format", "json", container.id))
    return [int(pid) for pid in listed or []]


async def status(container: Container) -> str:
    """runc's word (created, running, paused, stopped); empty when runc does not know the container."""
    try:
        return str(json.loads(await _runc(container, "state", container.id))["status"])
    except CommandFailed as error:
        if "does not exist" in error.stderr:
            return ""
        raise


async def delete(container: Container) -> None:
    """Kill what is left of the container and forget it; nothing happens if runc does not know it.

    Whatever a killed restore left mounted in its state folder must be unmounted before (runc says 0 and leaves it).
    """
    await _runc(container, "delete", "--force", container.id)
