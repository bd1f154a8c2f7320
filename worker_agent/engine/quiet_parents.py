"""Parents that would hear of the stop in which CRIU leaves restored children.

The kernel queues a SIGCHLD for the parent of each process that stops. A parent that is not stopped itself yet, and has
a handler, takes it: SIGCHLD comes before SIGSTOP (tried: in about half of the restores). So the images to restore from
say that these threads block SIGCHLD. What has come in the meantime is taken out of the queue (quiet_continue.py), and
then they take it again as before, all of it before the first instruction of the job.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

from worker_agent.engine import criu_image
from worker_agent.engine.criu_image import Message
from worker_agent.engine.signal_queues import CORE_MAGIC

_TREE, _TREE_MAGIC = "pstree.img", 0x50273030
"""CRIU, criu/include/magic.h: PSTREE_MAGIC."""
_PID, _PARENT, _THREADS = 1, 2, 5
"""images/pstree.proto."""
_TASK, _BLOCKED, _ACTIONS = 3, 5, 15
"""images/core.proto: core_entry.tc, and of it blk_sigset and sigactions (of all signals but SIGKILL and SIGSTOP)."""
_THREAD, _BLOCKED_BY_THREAD = 5, 6
"""core_entry.thread_core and its blk_sigset, which counts where it is there."""
_HANDLER, _FLAGS = 1, 2
"""images/sa.proto."""
_PLACE = signal.SIGCHLD - 2
_DEFAULT, _IGNORED, _NO_STOPS = 0, 1, 1
"""SIG_DFL and SIG_IGN; SA_NOCLDSTOP."""
BIT = 1 << (signal.SIGCHLD - 1)


def threads_to_hush(images: Path) -> dict[int, frozenset[int]]:
    """By process, in the container's numbers: the threads that would take a SIGCHLD about a child's stop.

    ImageInvalid, OSError. Blocks.
    """
    tree = [criu_image.parse(entry) for entry in criu_image.entries((images / _TREE).read_bytes(), _TREE_MAGIC)]
    parents = {criu_image.number(entry, _PARENT) for entry in tree}
    found = {}
    for entry in tree:
        pid = criu_image.number(entry, _PID)
        if pid not in parents or not _hears_of_stops(_core(images, pid)):
            continue
        threads = {pid, *criu_image.numbers(entry, _THREADS)}
        if open_ears := frozenset(tid for tid in threads if not _mask(_core(images, tid)) & BIT):
            found[pid] = open_ears
    return found


def hushed(images: Path, changed: Mapping[str, bytes]) -> dict[str, bytes]:
    """Images to restore from instead of those of the same name; mostly none. `changed` are those that are different
    already. ImageInvalid, OSError. Blocks."""
    names = [_name(tid) for threads in threads_to_hush(images).values() for tid in threads]
    return {name: _with_blocked(changed.get(name) or (images / name).read_bytes()) for name in names}


def _name(tid: int) -> str:
    return f"core-{tid}.img"


def _core(images: Path, tid: int) -> Message:
    return _parsed((images / _name(tid)).read_bytes())


def _parsed(image: bytes) -> Message:
    return criu_image.parse(next(criu_image.entries(image, CORE_MAGIC), b""))


def _hears_of_stops(core: Message) -> bool:
    task = criu_image.part(core, _TASK) or []
    actions = [field.value for field in task if field.number == _ACTIONS and isinstance(field.value, bytes)]
    if len(actions) <= _PLACE:
        return False
    action = criu_image.parse(actions[_PLACE])
    handler, flags = criu_image.number(action, _HANDLER), criu_image.number(action, _FLAGS)
    return handler not in (_DEFAULT, _IGNORED) and not flags & _NO_STOPS


def _masks(core: Message) -> Iterator[tuple[int, Message, int]]:
    """Where the signals stand that it blocks: the part, what is in it, and the field. The last counts."""
    for owner, wanted in ((_TASK, _BLOCKED), (_THREAD, _BLOCKED_BY_THREAD)):
        inside = criu_image.part(core, owner)
        if inside is not None and any(field.number == wanted for field in inside):
            yield owner, inside, wanted


def _mask(core: Message) -> int:
    return [BIT, *(criu_image.number(inside, wanted) for _, inside, wanted in _masks(core))][-1]


def _with_blocked(image: bytes) -> bytes:
    core = _parsed(image)
    for owner, inside, wanted in list(_masks(core)):
        mask = criu_image.number(inside, wanted) | BIT
        core = criu_image.with_field(core, owner, criu_image.encode(criu_image.with_field(inside, wanted, mask)))
    return criu_image.image(CORE_MAGIC, [criu_image.encode(core)])
