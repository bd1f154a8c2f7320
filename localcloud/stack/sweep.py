"""Removes everything of a stack that does not run: processes, mounts, loop devices, network, cgroups, files."""

from __future__ import annotations

import logging
from pathlib import Path

from localcloud.cgroups import Cgroup
from localcloud.nodes.launcher import remove_folder
from localcloud.nodes.network import bridges_of, remove_bridge
from localcloud.stack.pool import free_disks
from localcloud.stack.stack import StackPlace, claimed, is_claimed, known_places
from perdure.domain.errors import StackError

log = logging.getLogger(__name__)

KEPT_SECONDS = 24 * 3600.0
"""How long what is left of a stack that ended stays, to be looked at."""


def sweep(place: StackPlace) -> None:
    """Leave nothing of the stack but its logs. Idempotent; the stack's lock must be held.

    Processes are found by the stack's cgroup, which nothing but the stack puts processes in. Raises StackError naming
    what could not be removed.
    """
    group = Cgroup.at(place.cgroup)
    try:
        group.freeze(1.0)
        group.kill()
        for bridge in bridges_of(place.mark):
            remove_bridge(bridge)
        free_disks(place.folder)
        group.remove()
        group.remove_empty_parents()
        for entry in place.folder.iterdir() if place.folder.is_dir() else ():
            if entry == place.logs:
                continue
            if entry.is_dir() and not entry.is_symlink():
                remove_folder(entry)
            else:
                entry.unlink()
    except (OSError, TimeoutError) as problem:
        raise StackError(f"stack {place.name!r} is not swept clean: {problem}") from problem


def forget_ended(base: Path, now: float) -> list[str]:
    """Remove what is left of the stacks in that folder that do not run and wrote nothing for a day before `now` (POSIX
    seconds): logs, and all else of one that was killed. Returns their names.

    One that cannot be removed is told to the log and left: it must not stop another stack's start.
    """
    forgotten = []
    for place in known_places(base):
        try:
            if _last_written(place) > now - KEPT_SECONDS or is_claimed(place):
                continue
            with claimed(place):
                sweep(place)
                remove_folder(place.folder)
                place.lock_file.unlink()
        except (StackError, OSError) as problem:
            log.warning("stack %s ended long ago and could not be removed: %s", place.name, problem)
        else:
            forgotten.append(place.name)
    return forgotten


def _last_written(place: StackPlace) -> float:
    """When anything of the stack was written last, as far as its logs, its state and its lock tell (POSIX seconds)."""
    logs = place.logs.iterdir() if place.logs.is_dir() else ()
    times: list[float] = [path.stat().st_mtime for path in (place.lock_file, place.state_file, *logs) if path.exists()]
    return max(times)
