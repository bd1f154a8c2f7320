"""Giving space back. At every moment, every pack that a checkpoint names is there, whatever is cut short.

A checkpoint's manifest goes first, then the packs that no manifest names any more. A job's packs are named by its own
checkpoints, and by siblings that have left a mark here *before* they looked what is here. So:

    no marks    nobody else can know a pack that no manifest of ours names: it is deleted at once
    marks       a sibling that is at work may name it in a moment: it is condemned; from then on nobody takes it up, and
                an hour later, if no manifest of a sibling names it then, it is deleted

Who looked before it was condemned must have committed within half an hour (known_chunks.FRESH), or looks again.
Clocks of nodes may differ by as much as the other half.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from perdure.domain.errors import ImageInvalid, ObjectMissing
from perdure.stores.layout import Place, is_folder, number_in, pack_in
from perdure.stores.objects import Objects
from perdure.stores.stored_manifest import StoredManifest

GRACE = 3600.0
"""Seconds from a pack's condemnation to its end."""
Reader = Callable[[Place, int], StoredManifest]


def numbers_of(objects: Objects, place: Place) -> list[int]:
    """The numbers of a job's checkpoints, oldest first."""
    found = [number_in(one.key) for one in objects.list(place.manifests)]
    return sorted(number for number in found if number)


def collect(objects: Objects, place: Place, read: Reader, now: Callable[[], float] = time.time) -> set[str]:
    """Delete, or condemn, the job's packs that nothing names; the ids of those that are gone or go. Idempotent, and to
    be repeated after it was cut short. ImageInvalid if one of the job's checkpoints cannot be read: what it names is
    not known then, and nothing is deleted."""
    needed = _named_by(objects, place, place, read, strict=True)
    spare = {pack_in(one.key) or "" for one in objects.list(place.packs)} - needed - {""}
    condemned = {pack_in(one.key) or "": one.key for one in objects.list(place.condemned)}
    borrowers = [word for one in objects.list(place.borrowed) if is_folder(word := one.key.rpartition("/")[2])]
    if not borrowers:
        _delete(objects, place, spare, condemned)
        return spare
    wanted = {pack for word in borrowers for pack in _named_by(objects, place.sibling(word), place, read, strict=False)}
    doomed = {pack for pack in spare - wanted if pack in condemned and _over(objects, condemned[pack], now())}
    _delete(objects, place, doomed, condemned)
    # One that is needed after all lives on.
    objects.delete([key for pack, key in condemned.items() if pack in wanted | needed])
    for pack in spare - wanted - condemned.keys():
        objects.put(f"{place.condemned}{pack}", repr(now()).encode())
    return spare - wanted


def forget(objects: Objects, place: Place, siblings: list[Place], read: Reader) -> None:
    """The job is over and nothing of it is needed: its checkpoints, its packs as far as no sibling needs them, and its
    marks at its siblings', whose packs may go with that. Idempotent."""
    objects.put(place.over, b"")
    objects.delete([one.key for one in objects.list(place.manifests)])
    collect(objects, place, read)
    for sibling in siblings:
        objects.delete([f"{sibling.borrowed}{place.folder}"])
        if _is_over(objects, sibling):  # else its packs may be on their way to its first checkpoint
            collect(objects, sibling, read)
            _put_away(objects, sibling)
    _put_away(objects, place)


def _is_over(objects: Objects, place: Place) -> bool:
    try:
        objects.get(place.over)
    except ObjectMissing:
        return False
    return True


def _put_away(objects: Objects, place: Place) -> None:
    """The last traces of a job that has no checkpoints and no packs."""
    if not numbers_of(objects, place) and not any(True for _ in objects.list(place.packs)):
        objects.delete([one.key for one in objects.list(place.job)])


def _delete(objects: Objects, place: Place, packs: set[str], condemned: dict[str, str]) -> None:
    objects.delete([f"{place.packs}{pack}" for pack in sorted(packs)])
    objects.delete([key for pack, key in condemned.items() if pack in packs])


def _over(objects: Objects, key: str, now: float) -> bool:
    try:
        since = float(objects.get(key))
    except (ObjectMissing, ValueError):
        return False
    return now - since > GRACE


def _named_by(objects: Objects, place: Place, owner: Place, read: Reader, *, strict: bool) -> set[str]:
    """The packs of `owner` that the checkpoints of `place` name."""
    found = set()
    for number in numbers_of(objects, place):
        try:
            stored = read(place, number)
        except ObjectMissing:
            continue
        except ImageInvalid:
            if strict:
                raise
            continue  # no restore will ever ask for what a sibling's damaged manifest names
        found |= {pack.pack_id for pack in stored.packs if pack.folder == owner.folder}
    return found
