"""START HERE. The checkpoints of one job in a store: put, list, bring back, verify, drop.

A checkpoint exists exactly if its manifest does. The manifest is put last, and only where none of that number is: of
two containers of a job at most one commits a number. A container claims the store with its epoch before it starts; one
of an older epoch finds the claim and commits nothing any more.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime
from pathlib import Path

from perdure.domain.checkpoints import Manifest, droppable
from perdure.domain.errors import CheckpointFailed, Fenced, ImageInvalid, ObjectExists, ObjectMissing
from perdure.domain.store_costs import StoreUse
from perdure.image.disk import syncfs
from perdure.image.manifest import write_manifest
from perdure.stores import collecting
from perdure.stores.bandwidth import NO_DEADLINE, Bandwidth
from perdure.stores.codecs import CodecChoice
from perdure.stores.fetch import Fetch
from perdure.stores.known_chunks import KnownChunks, siblings_by_id
from perdure.stores.layout import Place, number_in
from perdure.stores.meter import Meter
from perdure.stores.packing import PACKERS, Destination
from perdure.stores.patience import Patient, Stopped
from perdure.stores.sent_pages import SentPages
from perdure.stores.stored_manifest import PackRef, Sizes, StoredManifest
from perdure.stores.upload import Upload

PATIENCE = 60.0
"""Seconds for which one call to the store is tried again."""
_LOOK = 0.2
"""Seconds between two looks whether an upload that waits is still wanted."""


class StoredCheckpoints:
    """One job's. Calls block; one upload at a time. `key`: the installation's, at least 32 bytes, or empty."""

    def __init__(
        self,
        store: Patient,
        job_id: str,
        *,
        key: bytes = b"",
        bandwidth: Bandwidth | None = None,
        meter: Meter | None = None,
    ) -> None:
        """`meter`: counts what is asked; one of its own if there is none."""
        self._meter = meter or Meter()
        self._unmetered, self._store = store, store.metered(self._meter)
        self._job_id, self._key = job_id, key
        self._place = Place.of(job_id)
        self._bandwidth = bandwidth or Bandwidth()
        self._known = KnownChunks()
        self._choice = CodecChoice(PACKERS)
        self._sent = SentPages()
        """By the last upload, or by what was brought back. What `_known` has not any more is sent again."""
        self._sound: set[PackRef] = set()
        """Packs that were read back."""
        self._changing = threading.Lock()
        """Held by who uploads, whose packs no manifest names yet, and by who deletes packs that none names."""

    def within(self, limit_seconds: float) -> StoredCheckpoints:
        """The same, with less patience than PATIENCE for each call."""
        return StoredCheckpoints(
            self._unmetered.within(limit_seconds),
            self._job_id,
            key=self._key,
            bandwidth=self._bandwidth,
            meter=self._meter,
        )

    def use(self, use_id: str, at: datetime) -> StoreUse:
        """What was asked of the store for this job since the last call, under that key; and how many bytes lie there in
        the job's own folder, as far as this program has seen that."""
        return self._meter.take(use_id, at, self._meter.held(self._place.job, self._place.packs))

    def over_siblings(self) -> dict[str, int]:
        """Bytes in the folders of siblings that are over and were looked at by `forget`, by their job ids."""
        found = {}
        for job_id, place in siblings_by_id(self._job_id).items():
            held = self._meter.held(place.job, place.packs)
            if held is not None:
                found[job_id] = held
        return found

    def claim(self, epoch: int) -> None:
        """From now on no container of an older epoch commits a checkpoint. Fenced if a newer one was here. Idempotent;
        who claims must be able to write, so a store that cannot be written is found out before the job starts."""
        newest = self._newest_claim()
        if newest > epoch:
            raise Fenced(f"{self._store.place}: epoch {newest} has this job; epoch {epoch} may no longer write it")
        self._store.put(self._place.claim(epoch), b"")
        older = [one.key for one in self._store.list(self._place.claims) if (number_in(one.key) or 0) < epoch]
        self._store.delete(older)

    def numbers(self) -> list[int]:
        """Of all checkpoints, oldest first, those with a damaged manifest included."""
        return collecting.numbers_of(self._store, self._place)

    def open(self, number: int) -> StoredManifest:
        """One checkpoint's manifest. ImageInvalid if there is none, it is damaged, or is not sealed as ours are."""
        return self._read(self._place, number)

    def put(
        self,
        job_root: Path,
        folder: Path,
        checkpoint: Manifest,
        *,
        deadline: float = NO_DEADLINE,
        stop: threading.Event | None = None,
    ) -> StoredManifest:
        """Bring the checkpoint that lies in `folder` into the store; when it returns, it exists there.

        `deadline` (monotonic seconds) says how urgent it is beside others of this node; `stop` ends it (Stopped).
        Fenced; CheckpointFailed if there is another one of that number; the store's errors. Then it does not exist, and
        what was sent already need not be sent again. Asked again with the same checkpoint, it succeeds.
        """
        while not self._changing.acquire(timeout=_LOOK):
            if stop is not None and stop.is_set():
                raise Stopped("the upload is not wanted any more")
        try:
            return self._put(job_root, folder, checkpoint, deadline, stop)
        finally:
            self._changing.release()

    def _put(
        self, job_root: Path, folder: Path, checkpoint: Manifest, deadline: float, stop: threading.Event | None
    ) -> StoredManifest:
        store = self._store.within(PATIENCE, stop)
        began = time.monotonic()
        self._known.refresh(store, self._place, self._job_id, self._read, self.numbers())
        destination = Destination(store, self._place, self._known, self._choice, self._bandwidth)
        upload = Upload(destination, deadline=deadline, stop=stop, before=self._sent)
        stored = upload.run(job_root, folder, checkpoint)
        if time.monotonic() - began > collecting.GRACE / 2 and self._borrowed(stored):
            self._known.forget()
            raise CheckpointFailed("the upload took so long that what it shares may be gone; it begins anew", "upload")
        newest = self._newest_claim()
        if newest > checkpoint.epoch:
            raise Fenced(f"{store.place}: epoch {newest} has this job; epoch {checkpoint.epoch} commits nothing")
        content = stored.encode(self._key)
        try:
            store.put_new(self._place.manifest(checkpoint.number), content)
        except ObjectExists as error:
            if self.open(checkpoint.number).checkpoint != checkpoint:
                said = f"{store.place} has a checkpoint {checkpoint.number} of this job already"
                raise CheckpointFailed(said, "upload") from error
        self._sent = upload.sent
        stored.sizes = Sizes(stored.sizes.holds, stored.sizes.wrote + len(content), stored.sizes.shares)
        return stored

    def fetch(self, number: int, job_root: Path, folder: Path, *, limit_bytes: int, urgent: bool = True) -> Manifest:
        """Bring a checkpoint back: into the new, empty `folder`, and the job's output into `<job_root>/log`, each byte
        verified; durable, and committed there, when it returns. ImageInvalid, JobRootFull, the store's errors."""
        stored = self.open(number)
        folder.mkdir(mode=0o700)
        (job_root / "log").mkdir(mode=0o700, exist_ok=True)
        deadline = time.monotonic() if urgent else NO_DEADLINE
        Fetch(self._store, self._place, stored, self._bandwidth, deadline=deadline).lay_down(
            job_root, folder, limit_bytes
        )
        syncfs(job_root)
        write_manifest(folder, stored.checkpoint)
        self._sent = SentPages.of(stored, folder)
        return stored.checkpoint

    def verify(self, number: int, stop: threading.Event | None = None) -> StoredManifest:
        """Read and check every byte that a restore would read. ImageInvalid names the first thing that is wrong."""
        stored = self.open(number)
        Fetch(self._store.within(PATIENCE, stop), self._place, stored, self._bandwidth, stop=stop).verify()
        return stored

    def verify_new(self, number: int, stop: threading.Event | None = None) -> None:
        """As `verify`, without the packs that were found sound before: what is read is about what was written."""
        stored = self.open(number)
        fetch = Fetch(self._store.within(PATIENCE, stop), self._place, stored, self._bandwidth, stop=stop)
        fetch.verify(without=self._sound)
        self._sound |= {*stored.packs}

    def prune(self, keep: int) -> list[int]:
        """Drop the oldest checkpoints but for `keep`, and what only they needed; the numbers dropped."""
        gone = droppable(self.numbers(), keep)
        self._drop(gone)
        return gone

    def delete(self, number: int) -> None:
        """Drop one checkpoint, readable or not. Nothing happens if there is none."""
        self._drop([number])

    def discard_damaged(self, stop: threading.Event | None = None) -> list[int]:
        """Read every checkpoint and drop those that are damaged; their numbers. After that nothing in the store is
        taken for granted: the next checkpoint is sent as a whole."""
        self._sound = set()
        damaged = []
        for number in self.numbers():
            try:
                self.verify_new(number, stop)
            except ImageInvalid:
                damaged.append(number)
        self._drop(damaged)
        if damaged:
            self._known.distrust()
        return damaged

    def forget(self) -> None:
        """The job is over: nothing of it stays but what siblings still need. Idempotent."""
        siblings = [*siblings_by_id(self._job_id).values()]
        collecting.forget(self._store, self._place, siblings, self._read)

    def empty(self) -> list[int]:
        """A clean start: no checkpoint of before is ever offered again; the numbers dropped."""
        gone = self.numbers()
        self._drop(gone)
        return gone

    def _drop(self, numbers: list[int]) -> None:
        if not numbers:
            return
        self._store.delete([self._place.manifest(number) for number in numbers])
        if self._changing.acquire(blocking=False):  # else the packs go with the next ones that are dropped
            try:
                gone = collecting.collect(self._store, self._place, self._read)
                self._known.drop({(self._place.folder, pack) for pack in gone})
            finally:
                self._changing.release()

    def _newest_claim(self) -> int:
        return max((number_in(one.key) or 0 for one in self._store.list(self._place.claims)), default=0)

    def _borrowed(self, stored: StoredManifest) -> bool:
        return any(pack.folder != self._place.folder for pack in stored.packs)

    def _read(self, place: Place, number: int) -> StoredManifest:
        key = place.manifest(number)
        try:
            content = self._store.get(key)
        except ObjectMissing as error:
            raise ImageInvalid(f"{self._store.place} has no checkpoint {number} of this job") from error
        return StoredManifest.decode(content, key, number, self._key)
