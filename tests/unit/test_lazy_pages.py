"""The books of a lazy restore, and its reading of pages: nothing missing is forgotten, nothing wrong is handed out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import ImageInvalid
from perdure.image.pages.index import PagesFile
from perdure.image.pages.prints import PAGE
from tests.integration.lazy_pages import checkpoint_of, page
from worker_agent.lazy_pages.missing import Missing, Part
from worker_agent.lazy_pages.source import Source

_PLACES = st.integers(0, 60)
_LENGTHS = st.integers(1, 20)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), _PLACES, _LENGTHS),
        st.tuples(st.just("asked"), _PLACES, _LENGTHS),
        st.tuples(st.just("next"), st.just(0), _LENGTHS),
        st.tuples(st.just("move"), st.tuples(_PLACES, _PLACES), _LENGTHS),
    ),
    max_size=30,
)


@given(st.sets(_PLACES, max_size=40), _STEPS)
def test_the_books_say_what_a_dictionary_of_pages_says(pages: set[int], steps: list[tuple[str, object, int]]) -> None:
    plain = {place: 1000 + place for place in pages}
    missing = Missing(Part(place * PAGE, (place + 1) * PAGE, 1000 + place) for place in pages)
    for name, where, length in steps:
        if name == "move":
            assert isinstance(where, tuple)
            old, new = where
            missing.move(old * PAGE, new * PAGE, length * PAGE)
            moved = {new + n: plain.pop(old + n) for n in range(length) if old + n in plain}
            plain = {place: source for place, source in plain.items() if not new <= place < new + length} | moved
            continue
        assert isinstance(where, int)
        if name == "cut":
            missing.cut(where * PAGE, (where + length) * PAGE)
            plain = {place: source for place, source in plain.items() if not where <= place < where + length}
            continue
        part = missing.asked(where * PAGE, length) if name == "asked" else missing.next(length)
        assert (part is None) == (where not in plain if name == "asked" else not plain)
        if part is not None:
            assert 1 <= part.pages <= length and (name == "next" or part.start == where * PAGE)
            for n in range(part.pages):
                assert plain.pop(part.start // PAGE + n) == part.source + n
            missing.cut(part.start, part.end)
        assert missing.pages == len(plain) and bool(missing) == bool(plain)


def test_a_child_has_books_of_its_own() -> None:
    missing = Missing([Part(0, 4 * PAGE, 7)])
    child = missing.copy()
    missing.cut(0, 4 * PAGE)
    assert not missing and child.pages == 4


def test_a_page_that_is_not_what_was_saved_is_not_handed_out(tmp_path: Path) -> None:
    images = checkpoint_of(tmp_path, [3, 5])
    source = Source(tmp_path, [PagesFile(one.path, one.size, one.blake3, one.index) for one in images])
    block = memoryview(bytearray(2 * PAGE))
    source.read(6, block)  # of the second file
    assert bytes(block) == page(6) + page(7)
    with open(tmp_path / images[1].path, "r+b") as file:
        file.seek(3 * PAGE + 17)
        file.write(b"!")
    with pytest.raises(ImageInvalid, match="wrong checksum at byte 12288"):
        source.read(6, block)
    source.read(3, block)
