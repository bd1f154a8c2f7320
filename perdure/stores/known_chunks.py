"""Which chunks a job need not send: those of its own checkpoints, of an upload of its that was cut short, and of its
siblings in an array.

What is borrowed from a sibling is marked at the sibling's before anything is looked at there, so that it is not deleted
under us (collecting.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

import structlog

from perdure.domain.errors import ImageInvalid, ObjectMissing, StoreFailed
from perdure.stores.layout import Place, number_in, pack_in
from perdure.stores.objects import Objects
from perdure.stores.packs import Row, read_table
from perdure.stores.stored_manifest import PackRef, StoredManifest

log = structlog.get_logger()

MOST_SIBLINGS = 4
FRESH = 1800.0
"""Seconds for which what was looked up at siblings may be used: half of what a condemned pack has left to live."""
Reader = Callable[[Place, int], StoredManifest]
"""Reads one manifest of a job of the family."""


class KnownChunks:
    """By BLAKE3, where a chunk lies. One upload at a time uses it; what that one sends is added."""

    def __init__(self) -> None:
        self._found: dict[bytes, tuple[PackRef, Row]] = {}
        self._loaded_at = float("-inf")

    def get(self, digest: bytes) -> tuple[PackRef, Row] | None:
        """The chunk, if the store has it."""
        return self._found.get(digest)

    def add(self, pack: PackRef, rows: Iterable[Row]) -> None:
        """The store has this pack now."""
        for row in rows:
            self._found.setdefault(row.blake3, (pack, row))

    def drop(self, packs: set[tuple[str, str]]) -> None:
        """These packs, as (folder, id), are not there any more, or go soon."""
        self._found = {
            digest: found for digest, found in self._found.items() if (found[0].folder, found[0].pack_id) not in packs
        }

    def distrust(self) -> None:
        """Something of what is known is damaged: for this while, everything is sent anew."""
        self._found, self._loaded_at = {}, time.monotonic()

    def forget(self) -> None:
        """Know nothing any more; the next look is a whole one."""
        self._found, self._loaded_at = {}, float("-inf")

    def refresh(self, objects: Objects, place: Place, job_id: str, read: Reader, numbers: list[int]) -> None:
        """Look again if the last look is too long ago. `numbers`: the job's own checkpoints. What cannot be read is
        sent anew: no fault of a sibling's is ours."""
        if time.monotonic() - self._loaded_at < FRESH:
            return
        began = time.monotonic()
        self._found = {}
        for number in numbers[::-1]:
            self._learn(read, place, number)
        self._learn_packs(objects, place)
        for sibling in siblings_by_id(job_id).values():
            try:
                self._borrow(objects, place, sibling, read)
            except StoreFailed as problem:
                log.info("nothing is shared with a sibling", sibling=sibling.folder, reason=str(problem))
        self.drop({(place.folder, pack_in(one.key) or "") for one in objects.list(place.condemned)})
        self._loaded_at = began

    def _borrow(self, objects: Objects, place: Place, sibling: Place, read: Reader) -> None:
        if not _numbers(objects, sibling):
            return
        objects.put(f"{sibling.borrowed}{place.folder}", b"")
        # Listed again: only what is there after the mark is safe from being deleted.
        for number in _numbers(objects, sibling)[-1:]:
            self._learn(read, sibling, number)
        self.drop({(sibling.folder, pack_in(one.key) or "") for one in objects.list(sibling.condemned)})

    def _learn(self, read: Reader, place: Place, number: int) -> None:
        try:
            stored = read(place, number)
        except (ImageInvalid, ObjectMissing) as problem:
            log.info("nothing is shared with a checkpoint", number=number, reason=str(problem))
            return
        for pack, row in stored.chunks:
            self._found.setdefault(row.blake3, (stored.packs[pack], row.whole))

    def _learn_packs(self, objects: Objects, place: Place) -> None:
        """Packs of ours that no checkpoint names: an upload was cut short, and this one goes on with them."""
        known = {pack.pack_id for pack, _ in self._found.values() if pack.folder == place.folder}
        for one in objects.list(place.packs):
            pack_id = pack_in(one.key)
            if pack_id is None or pack_id in known:
                continue
            try:
                rows = read_table(partial(objects.get, one.key), one.size, one.key)
            except (ImageInvalid, ObjectMissing) as problem:
                log.info("a pack is not gone on with", pack=pack_id, reason=str(problem))
                continue
            self.add(PackRef(place.folder, pack_id, one.size), rows)


def siblings_by_id(job_id: str) -> dict[str, Place]:
    """Some of a child's siblings, at most MOST_SIBLINGS: the one before it, and the first ones. Their names follow from
    its own; no array is listed, which may have ten thousand."""
    array, colon, index = job_id.rpartition(":")
    if not colon or not index.isascii() or not index.isdigit() or len(index) > 6:
        return {}
    own = int(index)
    wanted = dict.fromkeys(number for number in (own - 1, 0, 1, 2, 3) if 0 <= number != own)
    ids = [f"{array}:{number}" for number in wanted][:MOST_SIBLINGS]
    return {one: Place.of(one) for one in ids}


def _numbers(objects: Objects, place: Place) -> list[int]:
    return [number for one in objects.list(place.manifests) if (number := number_in(one.key))]
