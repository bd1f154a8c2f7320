"""The format of docs/image-format.md: what is written is read again, and nothing else is; every refusal says where."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import struct
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import ImageInvalid
from perdure.stores import codecs, sealing
from perdure.stores.codecs import Codec, CodecChoice
from perdure.stores.cutting import LARGEST, PAGE, SMALLEST, cuts
from perdure.stores.packs import PackBuilder, Row, open_chunk, read_table
from perdure.stores.stored_manifest import CHECKPOINT, HOLE, Entry, PackRef, Sizes, StoredManifest
from tests.documents.book import filled, told, typed
from tests.patience import PATIENCE
from tests.stores.fuzz import example, mutate, read_anything

NAME = "ab/job/job/manifests/000000003"
KEY = b"k" * 32


# ---- manifests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [b"", KEY])
def test_a_manifest_is_read_as_it_was_written(key: bytes) -> None:
    written = example()
    assert StoredManifest.decode(written.encode(key), NAME, 3, key) == written


@given(st.data())
def test_any_flipped_bit_is_seen(data: st.DataObject) -> None:
    content = bytearray(example().encode(KEY))
    place = data.draw(st.integers(0, len(content) * 8 - 1))
    content[place // 8] ^= 1 << place % 8
    with pytest.raises(ImageInvalid, match=r"byte \d+"):
        StoredManifest.decode(bytes(content), NAME, 3, KEY)


@given(st.integers(0, 10_000))
def test_any_truncation_is_seen(length: int) -> None:
    content = example().encode()
    with pytest.raises(ImageInvalid, match=r"byte \d+"):
        StoredManifest.decode(content[: length % len(content)], NAME, 3)
    with pytest.raises(ImageInvalid):
        StoredManifest.decode(content + b"x", NAME, 3)


def _framed(body: bytes, *, version: int = 1, size: int | None = None, stored: bytes | None = None) -> bytes:
    """A frame with a right seal, whatever is in it."""
    stored = zstandard.compress(body) if stored is None else stored
    size = len(body) if size is None else size
    framed = struct.pack("<8sHB5xQQ", b"PDRMANI\n", version, 0, size, len(stored)) + stored
    return framed + blake3(framed).digest()


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ImageInvalid, match="byte 8: it has version 3, this Perdure reads versions 1 and 2"):
        StoredManifest.decode(_framed(b"", version=3), NAME, 3)


def test_only_a_manifest_with_parts_of_chunks_needs_a_newer_reader() -> None:
    found = example()
    assert found.encode()[8] == 2
    del found.chunks[5], found.entries[4]
    assert found.encode()[8] == 1
    assert StoredManifest.decode(found.encode(), NAME, 3) == found


@pytest.mark.parametrize(("skip", "pages"), [(2, 2), (0, 4), (1, 0), (255, 255)])
def test_a_part_that_its_chunk_has_not_is_refused(skip: int, pages: int) -> None:
    found = example()
    found.chunks[5] = (0, found.chunks[5][1]._replace(skip=skip, pages=pages))
    with pytest.raises(ImageInvalid, match=f"chunk 5: {pages} pages after {skip} of a chunk of 14000 bytes"):
        StoredManifest.decode(found.encode(), NAME, 3)


def test_a_bomb_takes_no_memory() -> None:
    bomb = zstandard.compress(bytes(64 << 20))
    with pytest.raises(ImageInvalid, match="does not unpack"):
        StoredManifest.decode(_framed(b"", size=1000, stored=bomb), NAME, 3)
    with pytest.raises(ImageInvalid, match="more than"):
        StoredManifest.decode(_framed(b"", size=1 << 40, stored=bomb), NAME, 3)
    assert codecs.unpack(Codec.ZSTD, memoryview(bomb), 4096) is None
    assert codecs.unpack(Codec.LZ4, memoryview(b"\x1fa\x01\x00" + b"\xff" * 5000), 4096) is None


def _body(**changes: object) -> bytes:
    """The example's body with other entries or another head, sealed rightly."""
    content = example().encode()
    body = sealing.unseal(content, NAME)
    parts = []
    while body:
        (length,) = struct.unpack_from("<Q", body)
        parts.append(body[8 : 8 + length])
        body = body[8 + length :]
    head = json.loads(parts[0]) | {name: value for name, value in changes.items() if name != "lines"}
    lines = changes.get("lines")
    if isinstance(lines, list):
        parts[1] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        head["entries"] = len(lines)
    parts[0] = json.dumps(head).encode()
    return _framed(b"".join(struct.pack("<Q", len(part)) + part for part in parts))


FOLDER = {"p": f"{CHECKPOINT}/images", "m": 0o40700}
BAD_LINES = [
    ([{"p": "../etc/passwd", "m": 0o100600}], "unsafe path"),
    ([{"p": "/etc/passwd", "m": 0o100600}], "unsafe path"),
    ([{"p": f"{CHECKPOINT}/../../x", "m": 0o100600}], "unsafe path"),
    ([{"p": f"{CHECKPOINT}/%2e%2e/x", "m": 0o100600}], "unsafe path"),
    ([{"p": f"{CHECKPOINT}/a%2fb", "m": 0o100600}], "unsafe path"),
    ([{"p": f"{CHECKPOINT}/a%00b", "m": 0o100600}], "unsafe path"),
    ([{"p": "elsewhere/x", "m": 0o100600}], "unsafe path"),
    ([{"p": f"{CHECKPOINT}/nowhere/x", "m": 0o100600}], "no folder that came before"),
    ([FOLDER, FOLDER], "comes twice"),
    # The classic: a link that leads out, and a file "in" it.
    (
        [{"p": f"{CHECKPOINT}/a", "m": 0o120777, "l": "/etc"}, {"p": f"{CHECKPOINT}/a/passwd", "m": 0o100600}],
        "no folder that came before",
    ),
    ([{"p": f"{CHECKPOINT}/a", "m": 0o120777}], "leads nowhere"),
    ([{"p": f"{CHECKPOINT}/a", "m": 0o100600, "h": 0}], "another name of nothing"),
    ([FOLDER, {"p": f"{CHECKPOINT}/a", "m": 0o40700, "h": 0}], "another name of nothing"),
    ([{"p": f"{CHECKPOINT}/a", "m": 0o100600, "s": 5}], "says 5 bytes and has 0"),
    ([{"p": f"{CHECKPOINT}/a", "m": 0o100600, "s": 1 << 60, "c": [HOLE, 1 << 60]}], "says 1152921504606846976 bytes"),
    ([{"p": f"{CHECKPOINT}/a", "m": 0o100600, "s": 5, "c": [0, 100]}], "outside of the chunks"),
    ([{"p": f"{CHECKPOINT}/a", "m": 0o100600, "s": 5, "c": [-7, 1]}], "outside of the chunks"),
    ([{"p": f"{CHECKPOINT}/a", "m": 0o100600, "c": [0]}], "not usable"),
    ([{"p": f"{CHECKPOINT}/a", "m": 0o40700, "s": 0, "c": [0, 1]}], "has content and is no file"),
    ([{"p": f"{CHECKPOINT}/a", "m": 0o600}], "nothing that a file system has"),
    ([{"p": f"{CHECKPOINT}/a", "m": 0o100600, "o": [-1, 0]}], "out of range"),
    ([{"p": f"{CHECKPOINT}/a", "m": 0o100600, "x": {"user.a": "zz"}}], "not usable"),
    ([{"p": f"{CHECKPOINT}/a", "m": "0600"}], "not usable"),
    ([{"p": 5, "m": 0o100600}], "not usable"),
    ([[]], "not usable"),
]


@pytest.mark.parametrize(("lines", "words"), BAD_LINES)
def test_an_entry_that_could_do_harm_is_refused(lines: list[object], words: str) -> None:
    with pytest.raises(ImageInvalid, match=words) as told:
        StoredManifest.decode(_body(lines=lines), NAME, 3)
    assert NAME in str(told.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"packs": [["../../x", "0" * 32, 100]]}, "is not a pack"),
        ({"packs": [["job", "../../../etc/passwd", 100]]}, "is not a pack"),
        ({"packs": [["job", "0" * 32, 1 << 40]]}, "is not a pack"),
        ({"packs": []}, "lies in pack"),
        ({"packs": 5}, "not usable"),
        ({"chunks": 7}, "says 7 chunks"),
        ({"entries": -1}, "not usable"),
        ({"checkpoint": {}}, "not usable"),
        ({"sizes": [1]}, "not usable"),
    ],
)
def test_a_head_that_could_do_harm_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ImageInvalid, match=words):
        StoredManifest.decode(_body(**changes), NAME, 3)


def test_a_manifest_under_another_number_is_refused() -> None:
    with pytest.raises(ImageInvalid, match="it says number 3"):
        StoredManifest.decode(example().encode(), NAME, 4)


def test_the_seal_is_hmac_sha256_of_everything_before_it() -> None:
    content = example().encode(KEY)
    assert content[-32:] == hmac.digest(KEY, content[:-32], hashlib.sha256)
    assert example().encode()[-32:] == blake3(example().encode()[:-32]).digest()


@given(st.integers(0, 2**64))
def test_whatever_is_sealed_is_read_or_refused(seed: int) -> None:
    """Nothing but ImageInvalid, and what is read is safe: the fuzzer's own rule, some examples of it."""
    read_anything(mutate(random.Random(seed)))


# ---- packs ----------------------------------------------------------------------------------------------------------


def _pack(chunks: list[bytes], codec: Codec = Codec.LZ4) -> tuple[bytes, list[Row]]:
    builder = PackBuilder()
    for chunk in chunks:
        how, stored = codecs.pack(codec, chunk)
        builder.add(blake3(chunk).digest(), len(chunk), how, stored)
    return bytes(builder.close()[1]), builder.rows


@given(st.lists(st.binary(min_size=1, max_size=5000), min_size=1, max_size=20), st.sampled_from(Codec))
def test_a_pack_is_read_by_its_table(chunks: list[bytes], codec: Codec) -> None:
    content, rows = _pack(chunks, codec)
    found = read_table(lambda at, length: content[at : at + length], len(content), "pack")
    assert found == rows
    for row, chunk in zip(found, chunks, strict=True):
        assert open_chunk(row, memoryview(content)[row.offset : row.offset + row.stored], "pack") == chunk


@given(st.data())
def test_a_damaged_table_is_refused_with_its_place(data: st.DataObject) -> None:
    content = bytearray(_pack([b"one" * 100, b"two" * 100])[0])
    begin = len(content) - 2 * 48 - 48
    place = data.draw(st.one_of(st.integers(begin, len(content) - 1), st.integers(0, 9)))
    if begin + 2 * 48 + 4 <= place < begin + 2 * 48 + 8:
        return  # padding
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ImageInvalid, match=r"pack.*byte \d+|pack: a pack has no"):
        read_table(lambda at, length: bytes(content[at : at + length]), len(content), "pack")


@given(st.integers(0, 2000))
def test_a_pack_that_is_cut_off_is_refused(length: int) -> None:
    content = _pack([b"one" * 100, b"two" * 100])[0]
    cut = content[: length % len(content)]
    with pytest.raises(ImageInvalid):
        read_table(lambda at, length: cut[at : at + length], len(cut), "pack")


def test_the_same_chunks_make_the_same_pack() -> None:
    builders = [PackBuilder(), PackBuilder()]
    for builder in builders:
        builder.add(bytes(32), 4, Codec.RAW, b"same")
    assert builders[0].close() == builders[1].close()


# ---- cutting and codecs ---------------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 32), st.integers(0, 300), st.integers(0, PAGE - 1))
def test_cuts_are_whole_pages_and_leave_nothing_out(seed: int, pages: int, rest: int) -> None:
    block = memoryview(random.Random(seed).randbytes(pages * PAGE + rest))
    ends = cuts(block, final=True)
    sizes = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    assert sum(sizes) == len(block)
    assert all(size % PAGE == 0 and SMALLEST <= size <= LARGEST for size in sizes[:-1])
    assert all(0 < size <= LARGEST + PAGE for size in sizes)
    assert cuts(block, final=False) == ends[: len(cuts(block, final=False))]


def test_what_moves_by_whole_pages_is_cut_alike() -> None:
    content = random.Random(4).randbytes(600 * PAGE)

    def chunks(data: bytes) -> set[bytes]:
        ends = cuts(memoryview(data), final=True)
        return {data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)}

    before, after = chunks(content), chunks(random.Random(5).randbytes(3 * PAGE) + content)
    assert len(before - after) <= 3


def test_zeros_are_cut_at_the_largest_or_the_smallest_size() -> None:
    assert (
        len(
            {
                end - begin
                for begin, end in zip(
                    [0, *cuts(memoryview(bytes(1 << 20)), final=True)],
                    cuts(memoryview(bytes(1 << 20)), final=True),
                    strict=False,
                )
            }
        )
        == 1
    )


def test_what_does_not_get_smaller_is_kept_raw() -> None:
    noise = random.Random(6).randbytes(PAGE)
    for codec in Codec:
        assert codecs.pack(codec, noise) == (Codec.RAW, noise)


def test_a_fast_store_gets_raw_chunks_and_a_slow_one_gets_small_ones() -> None:
    choice = CodecChoice(2)
    for _ in range(30):
        choice.packed(Codec.LZ4, 100 << 20, 40 << 20, 0.25)
        choice.packed(Codec.ZSTD, 100 << 20, 20 << 20, 0.4)
        choice.sent(100 << 20, 0.02)
    assert str(choice.best.name) == "RAW"
    for _ in range(30):
        choice.sent(100 << 20, 0.4)
    assert str(choice.best.name) == "LZ4"
    for _ in range(30):
        choice.sent(100 << 20, 5.0)
    assert str(choice.best.name) == "ZSTD"
    tried = [choice.to_try() for _ in range(40)]
    assert set(tried) == {None, *Codec} - {choice.best} and tried.count(None) == 35


def test_a_guess_is_tried_in_a_small_part_before_it_is_followed() -> None:
    choice = CodecChoice(2)
    for codec in (Codec.ZSTD, Codec.LZ4):  # of noise, of which nothing gets smaller
        assert choice.to_try() is choice.best is codec
        choice.packed(codec, codecs.SAMPLE, codecs.SAMPLE, 0.001)
    assert choice.to_try() is None and choice.best.name == "RAW"


def test_sizes_and_runs_agree(tmp_path: Path) -> None:
    """The example itself is one that a reader believes; the fuzzer starts from it."""
    found = example()
    assert found.sizes == Sizes(70_000, 50_000, 100) and found.packs[0] == PackRef("job", "0" * 32, 60_000)
    assert isinstance(found.entries[0], Entry)


def test_the_fuzzer_can_be_run_by_hand() -> None:
    line = filled(told("docs/image-format.md", "python -m tests.stores.fuzz SECONDS"), {"SECONDS": "0.1"})
    assert "manifests and packs were changed" in typed(line, PATIENCE)
