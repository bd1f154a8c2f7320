"""A fuzzer of the readers of docs/image-format.md: `python -m tests.stores.fuzz SECONDS [SEED]`.

It takes a manifest that is right, changes its body at random, seals it rightly (the seal would catch everything else),
and reads it; the same for tables of packs and for packed chunks. Whatever comes of it must be an ImageInvalid, or
something safe: no path that leads out, no content outside of its packs. It prints the seed of what is not.
"""

from __future__ import annotations

import random
import stat
import struct
import sys
import time
from datetime import UTC, datetime

from blake3 import blake3

from perdure.domain.checkpoints import CheckpointKind, ImageFile, Manifest
from perdure.domain.errors import ImageInvalid
from perdure.image.manifest import decode_name
from perdure.stores import codecs, sealing
from perdure.stores.cutting import LARGEST, PAGE
from perdure.stores.packs import PackBuilder, Row, read_table
from perdure.stores.stored_manifest import CHECKPOINT, HOLE, LOG, Entry, PackRef, Sizes, StoredManifest

_WORDS = [b"..", b"/", b"%2e", b"%00", b"-1", b"0", b"99999999999999999999", b"null", b"[]", b"{}", b'"', b"\n", b"1e9"]
_WORDS += [b"checkpoint", b"log", b"images", b'"h":0', b'"c":[0,1]', b'"s":5', b"\xff\xff\xff\xff", b"\0\0\0\0"]


def example() -> StoredManifest:
    """A manifest that is right."""
    checkpoint = Manifest(
        job_id="job",
        number=3,
        kind=CheckpointKind.FINAL,
        epoch=2,
        attempt=2,
        instance_id="i-1",
        frozen_at=datetime(2026, 11, 29, tzinfo=UTC),
        committed_at=datetime(2026, 11, 29, tzinfo=UTC),
        container_id="c",
        images=[ImageFile(path="images/pages-1.img", size=70_000, blake3="0" * 64)],
        inodes={"layer/etc": 5},
    )
    chunks = [(0, Row(blake3(b"%d" % number).digest(), 16 + 10_000 * number, 9_000, 14_000, 1)) for number in range(5)]
    chunks.append((0, chunks[2][1]._replace(skip=1, pages=2)))
    folder = f"{CHECKPOINT}/images"
    entries = [
        Entry(f"{LOG}/stdout", 0o100600, size=14_000, runs=[(4, 1)]),
        Entry(folder, 0o40700, extended={"user.a": "00ff"}),
        Entry(f"{folder}/pages-1.img", 0o100600, 1, 2, 5, 6, size=73_000, runs=[(0, 4), (HOLE, 3_000), (0, 1)]),
        Entry(f"{folder}/same", 0o100600, link=2),
        Entry(f"{folder}/pages-2.img", 0o100600, size=8_192, runs=[(5, 1)]),
        Entry(f"{folder}/link", 0o120777, target="../../outside"),
        Entry(f"{folder}/n%ff", 0o20600, device=0),
    ]
    return StoredManifest(checkpoint, [PackRef("job", "0" * 32, 60_000)], entries, chunks, Sizes(70_000, 50_000, 100))


def mutate(chance: random.Random) -> bytes:
    """The example's body, changed at some places and sealed rightly; or its frame."""
    body = bytearray(sealing.unseal(example().encode(), "example"))
    for _ in range(chance.randrange(1, 5)):
        place = chance.randrange(len(body))
        match chance.randrange(5):
            case 0:
                body[place] ^= 1 << chance.randrange(8)
            case 1:
                word = chance.choice(_WORDS)
                body[place : place + chance.choice((0, len(word)))] = word
            case 2:
                del body[place : place + chance.randrange(1, 40)]
            case 3:
                begin = chance.randrange(len(body))
                body[place:place] = body[begin : begin + chance.randrange(1, 200)]
            case 4:
                struct.pack_into("<I", body, min(place, len(body) - 4), chance.choice((0, 1, 2**31, 2**32 - 1)))
        if len(body) < 30:
            break
    # The lengths of the parts are set right most of the time, or nothing else would ever be tried.
    if chance.random() < 0.7:
        _mend(body)
    return sealing.seal(bytes(body))


def _mend(body: bytearray) -> None:
    lines = body.find(b'{"p"')
    chunks = body.rfind(b"}\n") + 2
    if 16 < lines < chunks:
        struct.pack_into("<Q", body, 0, lines - 16)
        struct.pack_into("<Q", body, lines - 8, chunks - lines)
        if chunks + 8 <= len(body):
            struct.pack_into("<Q", body, chunks, len(body) - chunks - 8)


def read_anything(content: bytes) -> bool:
    """Read it. Was it a manifest? AssertionError if a reader would believe what is not safe."""
    try:
        found = StoredManifest.decode(content, "fuzzed", 3)
    except ImageInvalid:
        return False
    folders = {CHECKPOINT, LOG}
    for entry in found.entries:
        path = decode_name(entry.path)
        assert path.split("/")[0] in (CHECKPOINT, LOG) and not {"", ".", ".."} & set(path.split("/")), path
        assert entry.path.rpartition("/")[0] in folders, path
        if entry.link is None and entry.kind == stat.S_IFDIR:
            folders.add(entry.path)
        size = 0
        for first, count in entry.runs:
            assert count > 0 and (first == HOLE or first + count <= len(found.chunks))
            size += count if first == HOLE else sum(row.length for _, row in found.chunks[first : first + count])
        assert size == entry.size
    for pack, row in found.chunks:
        assert 0 < row.length <= row.size - row.skip * PAGE
        assert row.size <= LARGEST and row.offset + row.stored <= found.packs[pack].size
    return True


def fuzz_pack(chance: random.Random) -> None:
    """A pack, changed at random, its table's checksum set right now and then; and its chunks, unpacked."""
    builder = PackBuilder()
    for number in range(chance.randrange(1, 4)):
        chunk = chance.randbytes(10) * 100
        codec, stored = codecs.pack(codecs.Codec(number % 3), chunk)
        builder.add(blake3(chunk).digest(), len(chunk), codec, stored)
    content = bytearray(builder.close()[1])
    for _ in range(chance.randrange(1, 4)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    if chance.random() < 0.7:
        begin = max(0, len(content) - 48 * (len(builder.rows) + 1))
        content[-40:-8] = blake3(bytes(content[begin:-48])).digest()
    try:
        rows = read_table(lambda at, length: bytes(content[at : at + length]), len(content), "fuzzed")
    except ImageInvalid:
        return
    for row in rows:
        unpacked = codecs.unpack(row.codec, memoryview(content)[row.offset : row.offset + row.stored], row.size)
        assert unpacked is None or len(unpacked) == row.size <= LARGEST


def main(seconds: float, seed: int) -> None:
    """Until the time is over."""
    end, tried, read = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        try:
            read += read_anything(mutate(random.Random(seed)))
            fuzz_pack(random.Random(seed))
        except BaseException:
            print(f"seed {seed}", file=sys.stderr)
            raise
        tried, seed = tried + 1, seed + 1
    print(f"{tried} manifests and packs were changed; {read} of these manifests are read all the same, safely")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns())
