"""The frame around a manifest: version, sizes, compression, and a seal over all of it (docs/image-format.md, "Frame").

    0   8  magic `PDRMANI\\n`          8  2  version (1, 2)     10 1  seal: 0 BLAKE3, 1 HMAC-SHA256     11  5  zero
    16  8  bytes of the body           24 8  bytes of it as stored (zstd)
    32  …  the body                    …  32 the seal over everything before it

BLAKE3 finds accidents. Where others can write the store, only the HMAC with the installation's key tells that a
manifest is ours; and a manifest covers every byte that it leads to.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

import zstandard
from blake3 import blake3

from perdure.domain.errors import ImageInvalid

MAGIC = b"PDRMANI\n"
WHOLE, PARTS = 1, 2
"""Versions of the body: in the second one, chunks may be parts of stored ones (docs/image-format.md, "Manifest")."""
LARGEST_BODY = 1 << 30
"""Bytes; some eight million chunks, or as many files."""
_HEAD = struct.Struct("<8sHB5xQQ")
_SEAL = 32
_LEVEL = 3
_BY_HASH, _BY_KEY = 0, 1
SMALLEST_KEY = 32
"""Bytes of a key."""


def seal(body: bytes, key: bytes = b"", version: int = WHOLE) -> bytes:
    """The framed body, which has that version; with a `key` (at least 32 bytes), nobody without it can make another."""
    stored = zstandard.ZstdCompressor(level=_LEVEL, threads=0).compress(body)
    framed = _HEAD.pack(MAGIC, version, _BY_KEY if key else _BY_HASH, len(body), len(stored)) + stored
    return framed + _sealed(framed, key)


def unseal(content: bytes, name: str, key: bytes = b"") -> bytes:
    """The body. ImageInvalid, with `name` and offset, for everything that is not what `seal` made with the same key: a
    manifest without a key's seal is refused too where there is a key."""
    if len(content) < _HEAD.size + _SEAL:
        raise ImageInvalid(f"{name} ends at byte {len(content)}, before its head is over: it is cut off")
    magic, version, kind, size, stored = _HEAD.unpack_from(content)
    if magic != MAGIC:
        raise ImageInvalid(f"{name}, byte 0: this is no manifest of Perdure")
    if version not in (WHOLE, PARTS):
        raise ImageInvalid(f"{name}, byte 8: it has version {version}, this Perdure reads versions {WHOLE} and {PARTS}")
    if kind not in (_BY_HASH, _BY_KEY) or any(content[11:16]):
        raise ImageInvalid(f"{name}, byte 10: the kind of its seal is unknown")
    if kind != (_BY_KEY if key else _BY_HASH):
        said = "it is sealed with a key, and none is given here" if kind else "it is not sealed with our key"
        raise ImageInvalid(f"{name}, byte 10: {said}")
    end = _HEAD.size + stored
    if len(content) != end + _SEAL:
        raise ImageInvalid(f"{name}, byte 24: it should have {end + _SEAL} bytes and has {len(content)}")
    if not hmac.compare_digest(content[end:], _sealed(content[:end], key)):
        raise ImageInvalid(f"{name}, byte {end}: its seal is wrong: it was changed, or sealed with another key")
    if size > LARGEST_BODY:
        raise ImageInvalid(f"{name}, byte 16: it says {size} bytes, more than the {LARGEST_BODY} that are read")
    body = decompress(content[_HEAD.size : end], size)
    if body is None:
        raise ImageInvalid(f"{name}, byte {_HEAD.size}: it does not unpack to {size} bytes")
    return body


def decompress(stored: bytes | memoryview, size: int) -> bytes | None:
    """zstd, exactly `size` bytes; None for anything else. Never takes more memory than that."""
    try:
        if zstandard.get_frame_parameters(stored).content_size != size:
            return None
        content = zstandard.ZstdDecompressor().decompress(stored, max_output_size=size, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError):
        return None
    return content if len(content) == size else None


def _sealed(content: bytes, key: bytes) -> bytes:
    return hmac.digest(key, content, hashlib.sha256) if key else blake3(content).digest()
