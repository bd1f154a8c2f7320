"""Removes everything of a stack that does not run: processes, mounts, loop devices, network, cgroups, files."""

from __future__ import annotations

from localcloud.cgroups import Cgroup
from localcloud.nodes.launcher import remove_folder
from localcloud.nodes.network import bridges_of, remove_bridge
from localcloud.stack.pool import free_disks
from localcloud.stack.stack import StackPlace
from perdure.domain.errors import StackError


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
