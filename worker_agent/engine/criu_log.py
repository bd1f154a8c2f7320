"""What CRIU's log says about a failure, in one line for people; and whether another node might do better."""

from __future__ import annotations

import re
from pathlib import Path

_TAIL = 256 * 1024
_ERROR = re.compile(r"^\(\d+\.\d+\)\s*(?:\d+:\s*)?Error \(([^)]*)\): (.*)$", re.MULTILINE)
_EMPTY_WORDS = ("Dumping FAILED", "Restoring FAILED", "rlimit: Can't setup RLIMIT_NOFILE")
"""Said at every failure, or (for want of CAP_SYS_RESOURCE) at every run."""

_UNDUMPABLE = {
    "send_fds failed": "it holds a descriptor that cannot be saved (an io_uring ring?)",
    "fsnotify: Can't dump that handle": "it watches files (inotify) on a file system where they cannot be found again",
    "link remap": "it has a file open that lost its name but has others",
    "increase limit": "a deleted but open file is larger than 1 GiB",
    "Can't lookup mount": "it has a file open from outside its own mounts",
}
_NODE_FAULTS = (
    "Address already in use",
    "Cannot assign requested address",
    "Network is unreachable",
    "CPU ",
    "cpu",
    "No space left on device",
    "Cannot allocate memory",
    "Can't lookup cgroup",
)


def errors(log: Path, most: int = 3) -> str:
    """The last errors of a CRIU log, oldest of them first; empty if there is no log or no error in it."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    found = [f"{place}: {words}" for place, words in _ERROR.findall(text) if not words.startswith(_EMPTY_WORDS)]
    return "; ".join(found[:1] + found[1:][-(most - 1) :])


def undumpable(message: str) -> str:
    """What the job holds that CRIU can never dump, if the message shows it."""
    return next((reason for words, reason in _UNDUMPABLE.items() if words in message), "")


def node_fault(message: str) -> bool:
    """Does the message point at this node (a port, an address, memory, the CPU) rather than at the checkpoint?"""
    return any(words in message for words in _NODE_FAULTS)
