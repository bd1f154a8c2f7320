"""What a container takes for granted of where it runs, read from its own configuration (untrusted input)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from perdure.domain.checkpoints import Surroundings

_PATHS = {
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": re.compile(r"(/v2/credentials/[A-Za-z0-9-]{16,100})"),
    "ECS_CONTAINER_METADATA_URI": re.compile(r"http://169\.254\.170\.2(/v3/[A-Za-z0-9-]{16,100})"),
    "ECS_CONTAINER_METADATA_URI_V4": re.compile(r"http://169\.254\.170\.2(/v4/[A-Za-z0-9-]{16,100})"),
    "ECS_AGENT_URI": re.compile(r"http://169\.254\.170\.2(/api/[A-Za-z0-9-]{16,100})"),
}
"""The variables, and the only shapes of a path that are believed: the environment is the job's to choose."""


def paths_in(environment: Mapping[str, str]) -> dict[str, str]:
    """The paths at which a container finds its credentials and metadata, by variable; those of another shape are
    left out."""
    found = {}
    for name, shape in _PATHS.items():
        match = shape.fullmatch(environment.get(name, ""))
        if match:
            found[name] = match[1]
    return found


def exchange(known: Surroundings, given: Surroundings) -> dict[str, str]:
    """For each path that the job's processes know, the one that the container has now, where it is another."""
    return {path: given.paths[name] for name, path in known.paths.items() if given.paths.get(name, path) != path}


def rewrite(target: str, paths: Mapping[str, str]) -> str:
    """The request target, with a known path (whole, or what lies below it) replaced."""
    for old, new in paths.items():
        if target == old or target.startswith((old + "/", old + "?")):
            return new + target[len(old) :]
    return target


def same_network(path: str) -> bool:
    """Is the network namespace at `path` the one that we are in? False if there is none."""
    try:
        there, here = os.stat(path), os.stat("/proc/self/ns/net")
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
