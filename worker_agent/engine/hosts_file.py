"""What a job wrote into /etc/hosts (a licence server, the name of another program of its own).

The container engine makes that file anew for each container, so no layer has it. The lines go along in the manifest,
and the next container's file gets those that it lacks (worker_agent/container/network.py).
"""

from __future__ import annotations

import os
from contextlib import suppress

from worker_agent.engine.container import Container
from worker_agent.engine.inside import folder_of

PLACE = "/etc/hosts"
_LONGEST = 64 << 10
"""Bytes that are looked at."""
_SHORT_ID = 12
"""Characters of a container's id that Docker takes for its host name."""


def lines(container: Container) -> list[str]:
    """Those of the container's own file, where the container engine made it, without the one for its own name."""
    if not any(rule.destination == PLACE and rule.rule == "fresh" for rule in container.mounts):
        return []
    own = {container.id[:_SHORT_ID], container.surroundings.host_name}
    text = ""
    with suppress(OSError):  # the job may have put anything in its place
        with folder_of(f"/proc/{container.init_pid}/root", PLACE) as folder:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(os.path.basename(PLACE), flags, dir_fd=folder)
        with open(file, encoding="utf-8", errors="replace") as read:
            text = read.read(_LONGEST)
    return [line for line in text.splitlines() if line.strip() and own.isdisjoint(line.split()[1:])]
