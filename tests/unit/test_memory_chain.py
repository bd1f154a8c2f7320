"""Chains of memory images: what a dump may build on, what stays for others, and what no restore may ever use."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from perdure.domain.checkpoints import CheckpointKind, Manifest, ParentLink
from perdure.domain.errors import ImageInvalid
from perdure.image.chain import IMAGES, LINK, PREDUMP, link_to, linked_parent
from perdure.image.checksums import digest_images
from perdure.image.files import FILES, TREES, digest_clones
from perdure.image.manifest import BASE
from perdure.image.store import DirectoryStore
from tests.unit.test_manifest import WHEN
from worker_agent.engine import ensure_layout, offered
from worker_agent.engine import job_root as roots
from worker_agent.engine.memory import Base, ChangedMemory, clears_it_itself

LONGEST = 4


def fake_dump(store: DirectoryStore, base: Base | None, predump: bool = False) -> Path:
    """What CRIU leaves: pages, and the links to what it left out."""
    folder = store.begin()
    link = link_to(base.link.number) if base else ""
    for part in [PREDUMP, IMAGES] if predump else [IMAGES]:
        (folder / part).mkdir(exist_ok=True)
        (folder / part / "pages-1.img").write_bytes(f"{part} {folder.name}".encode() + bytes(0 if base else 1000))
        if link:
            (folder / part / LINK).symlink_to(link)
        link = f"../{part}"
    for tree in TREES:
        (folder / FILES / tree).mkdir(parents=True, exist_ok=True)
    return folder


def commit(store: DirectoryStore, folder: Path, base: Base | None, memory: ChangedMemory | None = None) -> Manifest:
    manifest = Manifest(
        job_id="job",
        number=int(folder.name),
        kind=CheckpointKind.PERIODIC,
        epoch=1,
        attempt=1,
        instance_id="i-0",
        frozen_at=WHEN,
        committed_at=WHEN,
        container_id="c" * 64,
        images=digest_images(folder),
        files_digest=digest_clones(folder),
        parent=base.link if base else None,
        parent_bytes=base.chain_bytes if base else 0,
    )
    digest = store.put(manifest)
    if memory is not None:
        memory.committed(manifest, digest, base)
    return manifest


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


@pytest.fixture
def chain(store: DirectoryStore) -> list[Manifest]:
    """Three checkpoints, each built on the one before; the last one with a predump."""
    memory, made = ChangedMemory(), []
    for predump in (False, False, True):
        base = memory.next_base(LONGEST)
        memory.begin()
        made.append(commit(store, fake_dump(store, base, predump), base, memory))
    return made


def test_a_chain_is_verified_to_its_end(store: DirectoryStore, chain: list[Manifest]) -> None:
    assert [manifest.parent and manifest.parent.number for manifest in chain] == [None, 1, 2]
    assert store.verify(3) == chain[2]
    assert chain[2].parent_bytes == chain[0].image_bytes + chain[1].image_bytes
    assert {image.path.split("/")[0] for image in chain[2].images} == {IMAGES, PREDUMP}


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_parent_takes_its_children_with_it(
    store: DirectoryStore, chain: list[Manifest], damaged: int
) -> None:
    (store.folder(damaged) / IMAGES / "pages-1.img").write_bytes(b"images X")
    for number in (1, 2, 3):
        if number < damaged:
            store.verify(number)
        else:
            with pytest.raises(ImageInvalid, match=f"/{damaged}/images/pages-1.img"):
                store.verify(number)


def test_a_lost_parent_is_refused(store: DirectoryStore, chain: list[Manifest]) -> None:
    shutil.rmtree(store.folder(1))
    for number in (2, 3):
        with pytest.raises(ImageInvalid, match="cannot be read"):
            store.verify(number)
    with pytest.raises(ImageInvalid):
        store.check_parent(ParentLink(number=2, manifest_blake3=chain[2].parent.manifest_blake3))  # type: ignore[union-attr]


def test_another_checkpoint_in_the_parents_place_is_refused(store: DirectoryStore, chain: list[Manifest]) -> None:
    shutil.rmtree(store.folder(2))
    folder = store.folder(2)
    (store.root / "last").write_text("1")
    shutil.move(store.folder(3), store.root / "aside")
    other = fake_dump(store, None)
    assert other == folder
    commit(store, other, None)
    shutil.move(store.root / "aside", store.folder(3))
    store.verify(2)
    with pytest.raises(ImageInvalid, match="another has taken its place"):
        store.verify(3)


@pytest.mark.parametrize(
    ("link", "target"),
    [
        (f"3/{PREDUMP}/{LINK}", "../../1/images"),
        (f"3/{PREDUMP}/{LINK}", ""),
        (f"3/{IMAGES}/{LINK}", "../../2/images"),
        (f"2/{IMAGES}/{LINK}", "/elsewhere"),
        (f"1/{IMAGES}/{LINK}", "../../1/images"),
    ],
)
def test_a_link_that_leads_elsewhere_is_refused(
    store: DirectoryStore, chain: list[Manifest], link: str, target: str
) -> None:
    path = store.root / link
    path.unlink(missing_ok=True)
    if target:
        path.symlink_to(target)
    with pytest.raises(ImageInvalid, match="leads to"):
        store.verify(3)


def test_a_manifest_cannot_name_itself_or_a_later_one_as_parent(store: DirectoryStore) -> None:
    folder = fake_dump(store, None)
    commit(store, folder, Base(ParentLink(number=1, manifest_blake3="ab" * 32), 1, 0, 0))
    with pytest.raises(ImageInvalid, match="as its parent"):
        store.open(1)


def test_images_stay_while_a_later_checkpoint_needs_them(store: DirectoryStore, chain: list[Manifest]) -> None:
    store.delete(1)
    store.delete(2)
    assert store.numbers() == [3] and store.verify(3) == chain[2]
    assert not (store.folder(1) / FILES).exists()
    with pytest.raises(ImageInvalid):
        store.open(1)
    assert store.sweep() == []
    store.delete(3)
    assert os.listdir(store.root) == ["last"]


def test_a_retirement_that_was_cut_short_is_finished(store: DirectoryStore, chain: list[Manifest]) -> None:
    (store.folder(1) / "manifest.json").rename(store.folder(1) / BASE)
    assert store.sweep() == [] and not (store.folder(1) / FILES).exists()
    store.verify(3)


def test_a_process_that_clears_the_note_itself_is_seen() -> None:
    assert not clears_it_itself([os.getpid()])
    with open("/proc/self/clear_refs", "wb"):
        assert clears_it_itself([os.getpid(), 2**22 + 1])


def test_a_job_that_rewrites_its_memory_does_not_fill_the_volume_with_one_chain(store: DirectoryStore) -> None:
    memory, lengths = ChangedMemory(), []
    for _ in range(6):
        base = memory.next_base(longest=100)
        memory.begin()
        folder = fake_dump(store, base)
        (folder / IMAGES / "pages-2.img").write_bytes(bytes(300))
        commit(store, folder, base, memory)
        lengths.append(base.length if base else 0)
    assert lengths == [0, 1, 2, 3, 0, 1]


def test_what_builds_on_a_quarantined_checkpoint_is_not_offered_either(tmp_path: Path) -> None:
    ensure_layout(tmp_path)
    checkpoints, memory = roots.store(tmp_path), ChangedMemory()
    for longest in (3, 3, 3, 1):
        base = memory.next_base(longest)
        commit(checkpoints, fake_dump(checkpoints, base), base, memory)
    assert checkpoints.ancestors(3) == [2, 1] and checkpoints.ancestors(4) == []
    assert offered(tmp_path) == [4, 3, 2, 1]
    assert offered(tmp_path, without=[2]) == [4, 1]


class Chains(RuleBasedStateMachine):
    """Checkpoints are taken, fail at any moment and are dropped, in any order, and the agent starts anew.

    `written` models the kernel: the number of the dump after which its note of written pages began.
    """

    @initialize()
    def begin(self) -> None:
        self.store = DirectoryStore(Path(tempfile.mkdtemp(prefix="perdure-chain-")))
        self.memory = ChangedMemory()
        self.written: int | None = None

    def teardown(self) -> None:
        if hasattr(self, "store"):
            shutil.rmtree(self.store.root)

    @rule(predump=st.booleans())
    def take(self, predump: bool) -> None:
        base = self._dump(predump)
        commit(self.store, self.folder, base, self.memory)

    @rule(predump=st.booleans())
    def fail_after_the_dump(self, predump: bool) -> None:
        self._dump(predump)
        self.store.delete(int(self.folder.name))

    @rule(predump=st.booleans())
    def die_after_the_dump(self, predump: bool) -> None:
        """The agent is killed: the torn folder stays until the next one sweeps."""
        self._dump(predump)
        self.memory = ChangedMemory()

    @rule()
    def begin_and_fail_before_the_dump(self) -> None:
        self.store.sweep()
        self.store.delete(int(self.store.begin().name))

    @rule(keep=st.integers(1, 3))
    def prune(self, keep: int) -> None:
        for number in self.store.numbers()[:-keep]:
            self.store.delete(number)

    @rule()
    def start_anew(self) -> None:
        self.memory = ChangedMemory()
        self.store.sweep()

    @rule()
    def lose_the_newest(self) -> None:
        """Somebody deletes it behind our back."""
        if self.store.numbers():
            shutil.rmtree(self.store.folder(self.store.numbers()[-1]))

    def _dump(self, predump: bool) -> Base | None:
        self.store.sweep()
        base = self.memory.next_base(LONGEST)
        if base is not None:
            try:
                self.store.check_parent(base.link)
            except ImageInvalid:
                base = None
        assert base is None or base.link.number == self.written, "the pages would be those of an older instant"
        self.memory.begin()
        self.folder = fake_dump(self.store, base, predump)
        self.written = int(self.folder.name)
        return base

    @invariant()
    def whatever_is_offered_can_be_restored(self) -> None:
        if not hasattr(self, "store"):
            return
        for number in self.store.numbers():
            chain, ancestor = 1, linked_parent(self.store.folder(number))
            while ancestor is not None and self.store.folder(ancestor).exists():
                chain, ancestor = chain + 1, linked_parent(self.store.folder(ancestor))
            assert chain <= LONGEST
            if ancestor is None:
                self.store.verify(number)
            else:
                with pytest.raises(ImageInvalid):
                    self.store.verify(number)

    @invariant()
    def nothing_is_kept_in_vain(self) -> None:
        if not hasattr(self, "store"):
            return
        self.store.sweep()
        numbers = self.store.numbers()
        needed = set(numbers)
        for number in numbers:
            ancestor: int | None = number
            while ancestor is not None:
                needed.add(ancestor)
                ancestor = linked_parent(self.store.folder(ancestor))
        left = {int(name) for name in os.listdir(self.store.root) if name.isdigit()}
        assert left <= needed


TestChains = Chains.TestCase
TestChains.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
