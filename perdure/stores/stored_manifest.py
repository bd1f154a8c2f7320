"""What a stored checkpoint consists of, as bytes and back (docs/image-format.md, "Manifest").

The body of the frame (sealing.py) is three parts, each with its length in 8 bytes before it:

    head      JSON: the checkpoint's own manifest, the packs it needs, how many entries and chunks follow, sizes
    entries   one JSON object a line: files, folders, links, in an order in which each folder comes before what it holds
    chunks    52 bytes each: BLAKE3 (32), pack (4), offset (4), bytes as stored (4), bytes (4), codec (1), of a part
              the pages before it (1) and its own (1), zero (1)

Reading believes nothing: whoever can write the store may have written this.
"""

from __future__ import annotations

import json
import stat
import struct
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from perdure.domain.checkpoints import MANIFEST_VERSION, Manifest
from perdure.domain.errors import ImageInvalid
from perdure.garbage import rarely_collected
from perdure.image.manifest import safe_path
from perdure.stores.layout import is_folder, pack_in
from perdure.stores.packs import LARGEST_PACK, Row, check_row
from perdure.stores.sealing import PARTS, WHOLE, seal, unseal

CHECKPOINT, LOG = "checkpoint", "log"
"""The two tops of an entry's path: the checkpoint's folder, and the job's output up to it."""
HOLE = -1
LARGEST_FILE = 1 << 46
"""Bytes; 64 TiB, the largest file that EBS volumes could hold several times over."""
MOST_XATTRS = 64
_LENGTH = struct.Struct("<Q")
_CHUNK = struct.Struct("<32sIIIIBBBx")
_KINDS = {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK}


@dataclass(slots=True)
class Entry:
    """One file, folder, link or device. `path` as manifests spell names (`encode_name`), below CHECKPOINT or LOG; times
    in nanoseconds; `runs`: pairs of (first chunk, how many), or (HOLE, bytes). `link`: the entry, by its place in the
    list, that this is another name of; everything else but `path` is that one's then. `extended`: attributes in hex."""

    path: str
    mode: int
    uid: int = 0
    gid: int = 0
    atime: int = 0
    mtime: int = 0
    size: int = 0
    device: int = 0
    target: str = ""
    link: int | None = None
    extended: dict[str, str] = field(default_factory=dict)
    runs: list[tuple[int, int]] = field(default_factory=list)

    @property
    def kind(self) -> int:
        """The S_IFMT part of the mode."""
        return stat.S_IFMT(self.mode)


@dataclass(frozen=True, slots=True)
class PackRef:
    """A pack: the job of the family that wrote it (its folder's word), its id, its bytes."""

    folder: str
    pack_id: str
    size: int


@dataclass(frozen=True)
class Sizes:
    """Bytes. `holds`: all that a restore writes; `wrote`: what the store grew by for it, as stored; `shares`: what it
    holds of chunks that were there already."""

    holds: int = 0
    wrote: int = 0
    shares: int = 0


@dataclass
class StoredManifest:
    """One stored checkpoint. `chunks`: (place in `packs`, row)."""

    checkpoint: Manifest
    packs: list[PackRef]
    entries: list[Entry]
    chunks: list[tuple[int, Row]]
    sizes: Sizes = field(default_factory=Sizes)

    def encode(self, key: bytes = b"") -> bytes:
        """The object's bytes."""
        head = {
            "checkpoint": self.checkpoint.model_dump(mode="json"),
            "packs": [[pack.folder, pack.pack_id, pack.size] for pack in self.packs],
            "entries": len(self.entries),
            "chunks": len(self.chunks),
            "sizes": [self.sizes.holds, self.sizes.wrote, self.sizes.shares],
        }
        entries = b"".join(_encode_entry(entry) for entry in self.entries)
        chunks = b"".join(
            _CHUNK.pack(digest, pack, offset, stored, size, codec, skip, pages)
            for pack, (digest, offset, stored, size, codec, skip, pages) in self.chunks
        )
        parts = (json.dumps(head, separators=(",", ":")).encode(), entries, chunks)
        version = PARTS if any(row.pages for _, row in self.chunks) else WHOLE
        return seal(b"".join(_LENGTH.pack(len(part)) + part for part in parts), key, version)

    @staticmethod
    @rarely_collected()
    def decode(content: bytes, name: str, number: int, key: bytes = b"") -> StoredManifest:
        """The manifest that the object `name` holds as checkpoint `number`. ImageInvalid says what is wrong, and at
        which byte of the object or of its body."""
        head_part, entries_part, chunks_part = _parts(unseal(content, name, key), name)
        head = _head(head_part, name)
        checkpoint = _checkpoint(head, name, number)
        packs = [_pack(fields, name) for fields in head["packs"]]
        if len(chunks_part) != head["chunks"] * _CHUNK.size:
            raise ImageInvalid(f"{name}: it says {head['chunks']} chunks and lists {len(chunks_part)} bytes of them")
        chunks = []
        for place, (digest, pack, *rest) in enumerate(_CHUNK.iter_unpack(chunks_part)):
            row = Row(digest, *rest)
            if pack >= len(packs):
                raise ImageInvalid(f"{name}: chunk {place} lies in pack {pack} of {len(packs)}")
            check_row(row, f"{name}, chunk {place}", packs[pack].size)
            chunks.append((pack, row))
        entries = _entries(entries_part, head["entries"], [row.length for _, row in chunks], name)
        return StoredManifest(checkpoint, packs, entries, chunks, Sizes(*head["sizes"]))


def _parts(body: bytes, name: str) -> list[bytes]:
    found, position = [], 0
    for _ in range(3):
        if position + _LENGTH.size > len(body):
            raise ImageInvalid(f"{name}, byte {position} of its body: it is cut off")
        (length,) = _LENGTH.unpack_from(body, position)
        position += _LENGTH.size
        if length > len(body) - position:
            raise ImageInvalid(f"{name}, byte {position} of its body: a part of {length} bytes is cut off")
        found.append(body[position : position + length])
        position += length
    if position != len(body):
        raise ImageInvalid(f"{name}, byte {position} of its body: something follows that should not")
    return found


def _head(part: bytes, name: str) -> dict[str, Any]:
    try:
        head = json.loads(part)
        counts = [head["entries"], head["chunks"], *head["sizes"]]
        if len(counts) != 5 or any(type(count) is not int or count < 0 for count in counts):
            raise ValueError("a count is none")
        if not isinstance(head["packs"], list) or not isinstance(head["checkpoint"], dict):
            raise ValueError("its packs or its checkpoint are missing")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ImageInvalid(f"{name}, byte 8 of its body: its head is not usable: {error}") from error
    found: dict[str, Any] = head
    return found


def _checkpoint(head: dict[str, Any], name: str, number: int) -> Manifest:
    try:
        checkpoint = Manifest.model_validate(head["checkpoint"])
    except ValidationError as error:
        raise ImageInvalid(f"{name}: the checkpoint's manifest is not usable: {error.errors()[0]['msg']}") from error
    if checkpoint.version != MANIFEST_VERSION:
        said = f"its checkpoint has version {checkpoint.version}, this Perdure reads version {MANIFEST_VERSION}"
        raise ImageInvalid(f"{name}: {said}")
    if checkpoint.number != number:
        raise ImageInvalid(f"{name}: it says number {checkpoint.number}")
    return checkpoint


def _pack(fields: Any, name: str) -> PackRef:
    match fields:
        case [str(folder), str(pack_id), int(size)] if (
            is_folder(folder) and pack_in(pack_id) == pack_id and 0 < size <= LARGEST_PACK
        ):
            return PackRef(folder, pack_id, size)
    raise ImageInvalid(f"{name}: {str(fields)[:100]} is not a pack")


def _encode_entry(entry: Entry) -> bytes:
    fields: dict[str, Any] = {"p": entry.path, "m": entry.mode}
    if entry.link is not None:
        fields["h"] = entry.link
    else:
        fields |= {"o": [entry.uid, entry.gid], "t": [entry.atime, entry.mtime]}
        rest = {"s": entry.size, "d": entry.device, "l": entry.target, "x": entry.extended}
        fields |= {name: value for name, value in rest.items() if value}
        if entry.runs:
            fields["c"] = [number for run in entry.runs for number in run]
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _entries(part: bytes, count: int, sizes: list[int], name: str) -> list[Entry]:
    lines = part.split(b"\n")
    if lines.pop() or len(lines) != count:
        raise ImageInvalid(f"{name}: it says {count} entries and lists {len(lines)}, or the last is cut off")
    entries: list[Entry] = []
    paths: dict[str, int] = {CHECKPOINT: stat.S_IFDIR, LOG: stat.S_IFDIR}
    before = [0]
    for size in sizes:
        before.append(before[-1] + size)
    for place, line in enumerate(lines):
        where = f"{name}, entry {place}"
        try:
            entry = _decode_entry(json.loads(line))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ImageInvalid(f"{where}: it is not usable: {str(error)[:200]}") from error
        problem = _problem(entry, entries, paths, before)
        if problem:
            raise ImageInvalid(f"{where} ({entry.path[:100]!r}): {problem}")
        paths[entry.path] = entry.kind
        entries.append(entry)
    return entries


def _decode_entry(fields: Any) -> Entry:
    if not isinstance(fields, dict) or not isinstance(fields.get("x", {}), dict):
        raise ValueError("it is no object")
    owner, times, flat = fields.get("o", [0, 0]), fields.get("t", [0, 0]), fields.get("c", [])
    link = fields.get("h")
    numbers = [fields["m"], fields.get("s", 0), fields.get("d", 0), *owner, *times, *flat]
    numbers += [] if link is None else [link]
    if any(type(number) is not int for number in numbers) or len(flat) % 2 or len(owner) != 2 or len(times) != 2:
        raise ValueError("a number is none")
    if not 0 <= fields["m"] < 1 << 16:
        raise ValueError("its mode is none")
    extended = fields.get("x", {})
    if len(extended) > MOST_XATTRS or not all(isinstance(word, str) for pair in extended.items() for word in pair):
        raise ValueError("its extended attributes are none")
    for value in extended.values():
        bytes.fromhex(value)
    path, target = fields["p"], fields.get("l", "")
    if not isinstance(path, str) or not isinstance(target, str):
        raise ValueError("its path is none")
    return Entry(
        path=path,
        mode=fields["m"],
        uid=owner[0],
        gid=owner[1],
        atime=times[0],
        mtime=times[1],
        size=fields.get("s", 0),
        device=fields.get("d", 0),
        target=target,
        link=link,
        extended=extended,
        runs=list(zip(flat[::2], flat[1::2], strict=True)),
    )


def _problem(entry: Entry, entries: list[Entry], paths: dict[str, int], before: list[int]) -> str:
    """What makes an entry unusable; empty if nothing does. `before`: bytes of all chunks before each."""
    if not safe_path(entry.path, {CHECKPOINT, LOG}) or len(entry.path) > 4096 * 3:
        return "it has an unsafe path"
    if entry.path in paths:
        return "its path comes twice"
    if paths.get(entry.path.rpartition("/")[0]) != stat.S_IFDIR:
        return "it lies in no folder that came before it"
    if entry.kind not in _KINDS:
        return "it is nothing that a file system has"
    if entry.link is not None:
        known = entries[entry.link] if 0 <= entry.link < len(entries) else None
        wrong = known is None or known.link is not None or known.mode != entry.mode or entry.kind == stat.S_IFDIR
        return "it is another name of nothing" if wrong else ""
    unsigned = (entry.uid, entry.gid, entry.device)
    if any(not 0 <= number < 1 << 32 for number in unsigned) or max(map(abs, (entry.atime, entry.mtime))) >= 1 << 63:
        return "its owner, device or time is out of range"
    if entry.kind == stat.S_IFLNK and not 0 < len(entry.target) <= 4096 * 3:
        return "it leads nowhere"
    if entry.kind != stat.S_IFREG:
        return "it has content and is no file" if entry.runs or entry.size else ""
    return _content_problem(entry, before)


def _content_problem(entry: Entry, before: list[int]) -> str:
    if not 0 <= entry.size <= LARGEST_FILE:
        return f"it says {entry.size} bytes"
    size = 0
    for first, count in entry.runs:
        if count <= 0 or (first != HOLE and not 0 <= first <= len(before) - 1 - count):
            return "its content lies outside of the chunks"
        size += count if first == HOLE else before[first + count] - before[first]
    return "" if size == entry.size else f"it says {entry.size} bytes and has {size}"
