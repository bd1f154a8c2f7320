"""Incremental memory: which earlier checkpoint a dump may build on, so that it holds only what changed since.

The kernel notes which pages a process wrote (soft-dirty) since CRIU last cleared that note, at the end of a dump. So a
dump may leave out a page only if *the last dump of all* is the one it names as its parent. Every dump, whatever became
of it, clears the note: after one that failed or was thrown away, pages would silently be those of an older instant
(tried: the restore says ok). Hence the rule of this module: what may be built on is forgotten the moment a dump or a
predump begins, and known again only once its checkpoint is committed. It is never written down: after a restore, and
for an agent that started anew, the next dump is a full one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from perdure.domain.checkpoints import Manifest, ParentLink
from perdure.domain.errors import CommandFailed
from worker_agent.engine.commands import run
from worker_agent.engine.descriptors import links

_CHECK_SECONDS = 30.0
_MOST_CHANGED = 0.5
"""Of a full dump: once the dumps that build on it add up to more, the next is a full one. Each dump of a chain stays on
the job volume until the whole chain goes, so a job that rewrites all its memory would fill it otherwise."""


@dataclass(frozen=True)
class Base:
    """A committed checkpoint that the next dump may build on. `length`: checkpoints in its chain, itself included;
    `chain_bytes`: what their memory images take together, `full_bytes`: the first one's, which is complete."""

    link: ParentLink
    length: int
    chain_bytes: int
    full_bytes: int


@dataclass
class ChangedMemory:
    """What the kernel's note of written pages refers to, for one container of this agent."""

    base: Base | None = None

    def next_base(self, longest: int) -> Base | None:
        """What the next dump may build on; None for a full one, which begins a chain of at most `longest`."""
        base = self.base
        if base is None or base.length >= longest:
            return None
        return base if base.chain_bytes <= (1 + _MOST_CHANGED) * base.full_bytes else None

    def begin(self) -> None:
        """A dump or predump is about to clear the kernel's note."""
        self.base = None

    def committed(self, manifest: Manifest, manifest_blake3: str, built_on: Base | None) -> None:
        """The dump is a checkpoint now, and the last one of all."""
        link = ParentLink(number=manifest.number, manifest_blake3=manifest_blake3)
        length, full_bytes = (built_on.length, built_on.full_bytes) if built_on else (0, manifest.image_bytes)
        self.base = Base(link, length + 1, manifest.image_bytes + manifest.parent_bytes, full_bytes)


_tracked: dict[str, bool] = {}


async def tracks_changes(criu: str) -> bool:
    """Can this kernel note which pages were written (CONFIG_MEM_SOFT_DIRTY)? CRIU is asked once."""
    if criu not in _tracked:
        try:
            await run([criu, "check", "--feature", "mem_dirty_track"], limit_seconds=_CHECK_SECONDS)
            _tracked[criu] = True
        except CommandFailed:
            _tracked[criu] = False
    return _tracked[criu]


def clears_it_itself(pids: Iterable[int]) -> bool:
    """Does a process of the job use the kernel's note for itself (some garbage collectors do)? Then it tells nothing
    about what changed since our last dump. They keep /proc/PID/clear_refs open."""
    for pid in pids:
        try:
            found = links(pid)
        except OSError:  # it ended while we looked
            continue
        if any(target.startswith("/proc/") and target.endswith("/clear_refs") for target in found.values()):
            return True
    return False
