"""A checkpoint goes into a store and comes back as it was; what is there already is not sent again; nothing that a
checkpoint needs is ever missing, whoever dies when."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.domain.errors import (
    CheckpointFailed,
    Fenced,
    ImageInvalid,
    JobRootFull,
    StoreRefused,
    StoreUnavailable,
)
from perdure.image.store import DirectoryStore
from perdure.stores import collecting, patience
from perdure.stores.bandwidth import Bandwidth
from perdure.stores.directory import DirectoryObjects
from perdure.stores.layout import Place
from perdure.stores.objects import Objects
from perdure.stores.patience import Patient, Stopped
from perdure.stores.stored_checkpoints import StoredCheckpoints
from tests.stores.checkpoint_bed import JOB, OUTPUT, JobRoot, look, new_root, text_pages
from tests.stores.store_bed import UNAVAILABLE, Crash, Faulty, at_call, in_turn

GIB = 1 << 30
KEY = bytes(range(32))


def of(objects: Objects, job_id: str = JOB, **options: Any) -> StoredCheckpoints:
    """One job's checkpoints, as a new agent sees them."""
    return StoredCheckpoints(Patient(objects, 5.0), job_id, **options)


def put(job: JobRoot, stored: StoredCheckpoints, **options: Any) -> Any:
    manifest = job.take(**options)
    return stored.put(job.root, job.folder(manifest.number), manifest)


def comes_back(job: JobRoot, stored: StoredCheckpoints, number: int, at: Path) -> None:
    """The checkpoint is on another node what it was here, and the engine's own verification agrees."""
    root = new_root(at)
    manifest = stored.fetch(number, root, root / "checkpoints" / str(number), limit_bytes=GIB)
    there = DirectoryStore(root / "checkpoints")
    assert there.verify(number) == manifest == job.store.open(number)
    assert look(there.folder(number) / "files") == look(job.folder(number) / "files")
    assert look(there.folder(number) / "images") == look(job.folder(number) / "images")
    assert (root / "log" / "stdout").read_bytes() == OUTPUT[: manifest.stdio.stdout]
    sparse = (there.folder(number) / "images" / "pages-2.img").stat()
    assert sparse.st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("key", [b"", KEY])
def test_it_comes_back_as_it_was(objects: Objects, tmp_path: Path, key: bytes) -> None:
    job = JobRoot(tmp_path / "one")
    stored = put(job, of(objects, key=key))
    assert of(objects, key=key).numbers() == [1]
    comes_back(job, of(objects, key=key), 1, tmp_path / "two")
    assert of(objects, key=key).verify(1).sizes.holds == stored.sizes.holds


def test_memory_that_a_page_index_says_is_unchanged_is_not_read_again(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    job, stored = JobRoot(tmp_path / "one", memory_pages=3000), of(DirectoryObjects(tmp_path / "store"))
    put(job, stored, seed=5)
    job.memory[4096 * 700 : 4096 * 730] = text_pages(99, 30)
    for number, seed in ((2, 5), (3, 6)):  # another seed says nothing of what was before
        manifest = job.take(seed=seed)
        damaged = job.folder(number) / "images" / "pages-1.img"
        with damaged.open("r+b") as file:
            file.seek(4096 * 2000)
            file.write(b"not the memory")
        written = damaged.stat()
        stored.put(job.root, job.folder(number), manifest)
        damaged.write_bytes(job.memory)
        os.utime(damaged, ns=(written.st_atime_ns, written.st_mtime_ns))
        if seed == 5:
            comes_back(job, stored, number, tmp_path / "two")
            continue
        with pytest.raises(ImageInvalid, match=f"wrong checksum at byte {4096 * 2000}"):
            comes_back(job, stored, number, tmp_path / "three")


def test_of_a_chunk_in_which_pages_changed_the_others_are_not_sent_again(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    directory = DirectoryObjects(tmp_path / "store")
    job, stored, chance = JobRoot(tmp_path / "one"), of(directory), random.Random(23)
    job.memory = bytearray(chance.randbytes(4096 * 2000))
    first = put(job, stored, seed=5).sizes.wrote
    for number in range(2, 7):
        for page in chance.sample(range(2000), 100):
            job.memory[4096 * page : 4096 * page + 16] = chance.randbytes(16)
        sizes = put(job, stored, seed=5).sizes
        assert sizes.wrote < first * 0.08 and sizes.wrote + sizes.shares < first * 1.1
        comes_back(job, of(directory), number, tmp_path / f"there-{number}")
    # A full checkpoint has another seed. An agent that brought one back knows its parts, too.
    assert put(job, stored, seed=6).sizes.wrote < first * 0.02
    other = of(directory)
    comes_back(job, other, 7, tmp_path / "there-7")
    assert put(job, other, seed=6).sizes.wrote < first * 0.02
    comes_back(job, of(directory), 8, tmp_path / "there-8")
    put(job, of(directory))  # one that knows nothing, and has no index
    comes_back(job, of(directory), 9, tmp_path / "there-9")
    stored.prune(2)
    assert [stored.verify(number).checkpoint.number for number in stored.numbers()] == [8, 9]


def test_a_series_of_indexed_checkpoints_comes_back_whatever_changes(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    job, stored = JobRoot(tmp_path / "one", memory_pages=900, sparse_mib=1), of(DirectoryObjects(tmp_path / "store"))
    chance = random.Random(17)
    for number in range(1, 13):
        put(job, stored, seed=5)
        comes_back(job, stored, number, tmp_path / f"there-{number}")
        if number % 4 == 0:
            stored.prune(1)
        for _ in range(chance.randrange(12)):
            at, pages = chance.randrange(len(job.memory) // 4096) * 4096, chance.choice((1, 1, 1, 3, 40))
            fresh = text_pages(chance.randrange(1000), pages) if chance.random() < 0.8 else bytes(4096 * pages)
            job.memory[at : at + len(fresh)] = fresh
        if number % 3 == 0:
            del job.memory[: 4096 * chance.randrange(1, 30)]


def test_only_what_changed_is_sent(objects: Objects, tmp_path: Path) -> None:
    job = JobRoot(tmp_path / "one", memory_pages=3000)
    stored = of(objects)
    first = put(job, stored)
    job.memory[4096 * 700 : 4096 * 730] = text_pages(99, 30)
    second = put(job, stored)
    assert second.sizes.wrote < first.sizes.wrote / 5
    assert second.sizes.shares > first.sizes.wrote / 2
    comes_back(job, stored, 2, tmp_path / "two")
    # A new agent finds in the store what the old one had sent; a heap that grew in front moves all pages.
    job.memory[:0] = text_pages(7, 3)
    third = put(job, of(objects))
    assert third.sizes.wrote < first.sizes.wrote / 5
    comes_back(job, of(objects), 3, tmp_path / "three")


def test_siblings_of_an_array_share(objects: Objects, tmp_path: Path) -> None:
    one = JobRoot(tmp_path / "one", f"{JOB}:0")
    other = JobRoot(tmp_path / "other", f"{JOB}:7")
    stranger = JobRoot(tmp_path / "stranger", "another-job:0")
    first = put(one, of(objects, f"{JOB}:0"))
    second = put(other, of(objects, f"{JOB}:7"))
    third = put(stranger, of(objects, "another-job:0"))
    assert second.sizes.wrote < first.sizes.wrote / 3
    assert third.sizes.wrote > first.sizes.wrote * 0.9
    # What the first one shares outlives it …
    of(objects, f"{JOB}:0").forget()
    comes_back(other, of(objects, f"{JOB}:7"), 1, tmp_path / "two")
    # … and goes with the last that needs it.
    of(objects, f"{JOB}:7").forget()
    assert [one for one in objects.list(Place.of(f"{JOB}:0").family)] == []
    assert [*objects.list(Place.of("another-job:0").packs)]


def test_old_ones_go_with_what_only_they_needed(objects: Objects, tmp_path: Path) -> None:
    job, stored = JobRoot(tmp_path / "one"), of(objects)
    for seed in range(4):
        job.memory[: 4096 * 200] = text_pages(seed + 10, 200)
        put(job, stored)
    before = sum(one.size for one in objects.list(""))
    assert stored.prune(2) == [1, 2]
    assert stored.numbers() == [3, 4]
    assert sum(one.size for one in objects.list("")) < before
    comes_back(job, stored, 3, tmp_path / "two")
    comes_back(job, stored, 4, tmp_path / "three")
    put(job, stored)  # what was dropped is not taken for granted any more
    comes_back(job, of(objects), 5, tmp_path / "four")
    assert stored.empty() == [3, 4, 5]
    assert [*objects.list(Place.of(JOB).packs)] == []


# ---- who may write --------------------------------------------------------------------------------------------------


def test_an_older_epoch_commits_nothing(objects: Objects, tmp_path: Path) -> None:
    job, stored = JobRoot(tmp_path / "one"), of(objects)
    stored.claim(1)
    stored.claim(1)
    put(job, stored)
    of(objects).claim(2)
    with pytest.raises(Fenced):
        stored.claim(1)
    with pytest.raises(Fenced):
        put(job, stored)
    assert of(objects).numbers() == [1]
    put(job, of(objects), epoch=2)
    assert of(objects).numbers() == [1, 3]


def test_a_number_is_committed_once(objects: Objects, tmp_path: Path) -> None:
    job, other = JobRoot(tmp_path / "one"), JobRoot(tmp_path / "other", seed=2)
    manifest = job.take()
    for _ in range(2):  # asked again, it is the same
        of(objects).put(job.root, job.folder(1), manifest)
    with pytest.raises(CheckpointFailed, match="already"):
        put(other, of(objects), epoch=2)
    comes_back(job, of(objects), 1, tmp_path / "two")


def test_with_a_key_nobody_else_makes_a_checkpoint(objects: Objects, tmp_path: Path) -> None:
    job = JobRoot(tmp_path / "one")
    put(job, of(objects))
    with pytest.raises(ImageInvalid, match="not sealed with our key"):
        of(objects, key=KEY).open(1)
    put(job, of(objects, key=KEY))
    with pytest.raises(ImageInvalid, match="its seal is wrong"):
        of(objects, key=bytes(32)).open(2)
    with pytest.raises(ImageInvalid, match="none is given here"):
        of(objects).open(2)
    assert of(objects, key=KEY).open(2).checkpoint == job.store.open(2)


# ---- faults ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> DirectoryObjects:
    (tmp_path / "store").mkdir()
    return DirectoryObjects(tmp_path / "store")


def test_a_store_that_is_overloaded_is_asked_again(
    directory: DirectoryObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.002)  # how long it waits says nothing here
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.002)
    job = JobRoot(tmp_path / "one")
    store = Faulty(directory, in_turn(*[UNAVAILABLE, None] * 20), in_turn(*[None, UNAVAILABLE, None] * 20))
    put(job, StoredCheckpoints(Patient(store, 60.0), JOB))
    comes_back(job, of(directory), 1, tmp_path / "two")


def test_a_store_that_stays_away_is_not_waited_for_longer_than_said(
    directory: DirectoryObjects, tmp_path: Path
) -> None:
    def away(name: str, key: str) -> None:
        raise UNAVAILABLE

    with pytest.raises(StoreUnavailable):
        StoredCheckpoints(Patient(Faulty(directory, away), 0.2), JOB).numbers()


def test_an_upload_is_stopped_and_the_next_goes_on_with_what_was_sent(
    directory: DirectoryObjects, tmp_path: Path
) -> None:
    job = JobRoot(tmp_path / "one", memory_pages=12_000)
    stop = threading.Event()
    sent: list[str] = []

    def after(name: str, key: str) -> None:
        if name == "put" and "/packs/" in key:
            sent.append(key)
            stop.set()

    manifest = job.take()
    with pytest.raises(Stopped):
        of(Faulty(directory, after=after)).put(job.root, job.folder(1), manifest, stop=stop)
    assert sent and of(directory).numbers() == []
    before = {one.key for one in directory.list("")}
    stored = of(directory).put(job.root, job.folder(1), manifest)
    assert stored.sizes.shares > 0
    assert before <= {one.key for one in directory.list("")}
    comes_back(job, of(directory), 1, tmp_path / "two")


def _all_is_whole(directory: DirectoryObjects, job: JobRoot, at: Path) -> None:
    """Each checkpoint that is there can be restored, and a new agent can go on and clean up."""
    stored = of(directory)
    for number in stored.numbers():
        stored.verify(number)
    manifest = job.take(number=50)
    stored.put(job.root, job.folder(50), manifest)
    stored.prune(1)
    comes_back(job, of(directory), 50, at)
    stored.forget()
    assert [*directory.list("")] == []


def _calls(tmp_path: Path, work: Callable[[StoredCheckpoints, JobRoot], None]) -> int:
    (tmp_path / "count").mkdir()
    counted = Faulty(DirectoryObjects(tmp_path / "count"))
    job = JobRoot(tmp_path / "counted", memory_pages=60, sparse_mib=3)
    work(of(counted), job)
    return len(counted.calls)


def _life(stored: StoredCheckpoints, job: JobRoot) -> None:
    """Everything that an agent does to a store."""
    stored.claim(1)
    for seed in range(2):
        job.memory[: 4096 * 50] = text_pages(seed + 10, 50)
        put(job, stored)
        stored.prune(1)
    stored.empty()
    put(job, stored)
    stored.forget()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_each_step_leaves_whole_checkpoints_only(tmp_path: Path, when: str) -> None:
    for number in range(_calls(tmp_path, _life)):
        here = tmp_path / f"{when}-{number}"
        (here / "store").mkdir(parents=True)
        directory = DirectoryObjects(here / "store")
        job = JobRoot(here / "one", memory_pages=60, sparse_mib=3)
        crash = at_call(number, Crash())
        store = Faulty(directory, crash) if when == "before" else Faulty(directory, after=crash)
        with pytest.raises(Crash):
            _life(of(store), job)
        _all_is_whole(directory, job, here / "two")


def test_what_a_sibling_may_be_taking_up_is_condemned_first(directory: DirectoryObjects, tmp_path: Path) -> None:
    one, other = JobRoot(tmp_path / "one", f"{JOB}:0"), JobRoot(tmp_path / "other", f"{JOB}:1")
    place = Place.of(f"{JOB}:0")
    first = of(directory, f"{JOB}:0")
    put(one, first)
    racing = of(directory, f"{JOB}:1")
    manifest = other.take()
    committed = threading.Event()

    def before(name: str, key: str) -> None:
        """The sibling has looked, and is about to commit: the first one cleans up."""
        if name == "put_new" and not committed.is_set():
            committed.set()
            of(directory, f"{JOB}:0").forget()

    racing = StoredCheckpoints(Patient(Faulty(directory, before), 5.0), f"{JOB}:1")
    racing.put(other.root, other.folder(1), manifest)
    assert [*directory.list(place.condemned)]
    comes_back(other, of(directory, f"{JOB}:1"), 1, tmp_path / "two")
    # An hour later it is seen that it is needed after all.
    read = of(directory, f"{JOB}:1")._read
    later = 2 * collecting.GRACE
    collecting.collect(directory, place, read, lambda: os.times().elapsed + later + 2e9)
    assert not [*directory.list(place.condemned)]
    comes_back(other, of(directory, f"{JOB}:1"), 1, tmp_path / "three")
    of(directory, f"{JOB}:1").forget()
    assert [*directory.list("")] == []


def test_a_siblings_end_does_not_touch_who_is_on_the_way_to_its_first_checkpoint(
    directory: DirectoryObjects, tmp_path: Path
) -> None:
    one, other = JobRoot(tmp_path / "one", f"{JOB}:0"), JobRoot(tmp_path / "other", f"{JOB}:1", seed=2)
    put(other, of(directory, f"{JOB}:1"))
    manifest = one.take()

    def before(name: str, key: str) -> None:
        if name == "put_new":
            of(directory, f"{JOB}:1").forget()

    of(Faulty(directory, before), f"{JOB}:0").put(one.root, one.folder(1), manifest)
    comes_back(one, of(directory, f"{JOB}:0"), 1, tmp_path / "two")
    of(directory, f"{JOB}:0").forget()
    assert [*directory.list("")] == []


# ---- damage ---------------------------------------------------------------------------------------------------------


def test_a_damaged_store_is_told_with_object_and_offset(objects: Objects, tmp_path: Path) -> None:
    job, stored = JobRoot(tmp_path / "one"), of(objects)
    put(job, stored)
    place = Place.of(JOB)
    pack = max(objects.list(place.packs), key=lambda one: one.size)
    whole = objects.get(pack.key)
    root = new_root(tmp_path / "two")
    for damaged, words in (
        (whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:], r"byte \d+: the chunk there"),
        (whole[: len(whole) // 2], "cut off"),
    ):
        objects.delete([pack.key])
        objects.put(pack.key, damaged)
        with pytest.raises(ImageInvalid, match=words) as told:
            stored.verify(1)
        assert pack.key in str(told.value)
    objects.delete([pack.key])
    with pytest.raises(ImageInvalid, match="lacks a pack"):
        stored.fetch(1, root, root / "checkpoints" / "1", limit_bytes=GIB)
    assert DirectoryStore(root / "checkpoints").numbers() == []
    with pytest.raises(ImageInvalid, match="no checkpoint 9"):
        stored.open(9)


def test_what_does_not_fit_is_not_begun(directory: DirectoryObjects, tmp_path: Path) -> None:
    job, stored = JobRoot(tmp_path / "one"), of(directory)
    put(job, stored)
    root = new_root(tmp_path / "two")
    with pytest.raises(JobRootFull):
        stored.fetch(1, root, root / "checkpoints" / "1", limit_bytes=1 << 20)


def test_a_store_that_refuses_is_not_asked_again(tmp_path: Path) -> None:
    store = Faulty(DirectoryObjects(tmp_path / "nothing"))
    with pytest.raises(StoreRefused, match="mounted"):
        of(store).numbers()
    assert len(store.calls) == 1


# ---- one node -------------------------------------------------------------------------------------------------------


def test_who_has_the_nearest_deadline_is_next() -> None:
    plan, order = Bandwidth(1), []
    held, waiting = threading.Event(), []

    def take(deadline: float) -> None:
        with plan.turn(deadline):
            order.append(deadline)

    with plan.turn():
        for deadline in (30.0, 10.0, float("inf"), 20.0):
            thread = threading.Thread(target=take, args=(deadline,))
            thread.start()
            waiting.append(thread)
        while len(plan._waiting) < 4:
            held.wait(0.01)
    for thread in waiting:
        thread.join()
    assert order == [10.0, 20.0, 30.0, float("inf")]


def test_what_is_deleted_for_its_damage_takes_nothing_from_the_upload_beside_it(tmp_path: Path) -> None:
    """Reading back and the next checkpoint's upload run at the same time. Its packs are named by no manifest yet."""
    (tmp_path / "store").mkdir()
    store = Faulty(DirectoryObjects(tmp_path / "store"))
    job, stored = JobRoot(tmp_path / "one", memory_pages=900), of(store)
    put(job, stored)
    pack = next((tmp_path / "store" / Place.of(JOB).packs).iterdir())
    pack.write_bytes(pack.read_bytes()[:100] + b"damaged" + pack.read_bytes()[107:])
    job.memory[:] = text_pages(7, 900)
    manifest = job.take()

    def before(name: str, key: str) -> None:
        if name == "put_new":  # all packs of the upload are there, its manifest is not
            store.before = lambda name, key: None
            store._lock.release()
            assert stored.discard_damaged() == [1]
            store._lock.acquire()

    store.before = before
    stored.put(job.root, job.folder(2), manifest)
    assert stored.verify(2).checkpoint == manifest
    put(job, stored)
    assert stored.prune(1) == [2]
    assert len([*(tmp_path / "store" / Place.of(JOB).packs).iterdir()]) == len(stored.open(3).packs), "none is left"


def test_what_is_damaged_is_found_by_reading_back_and_nothing_leans_on_it(
    directory: DirectoryObjects, tmp_path: Path
) -> None:
    job, stored = JobRoot(tmp_path / "one"), of(directory)
    put(job, stored)
    stored.verify_new(1)
    job.memory[: 4096 * 20] = text_pages(5, 20)
    second = put(job, stored)
    asked = Faulty(directory)
    other = of(asked)
    other.verify_new(1)
    before = len(asked.calls)
    other.verify_new(2)
    assert len([name for name, _ in asked.calls[before:] if name == "get"]) < 4, (
        "what was found sound is not read again"
    )
    assert second.sizes.shares > 0
    for one in directory.list(Place.of(JOB).packs):
        directory.put(one.key, bytes(one.size))
    assert stored.discard_damaged() == [1, 2]
    assert stored.numbers() == [] and [*directory.list(Place.of(JOB).packs)] == []
    assert put(job, stored).sizes.shares == 0
    comes_back(job, of(directory), 3, tmp_path / "two")
