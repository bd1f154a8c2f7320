"""CRIU's image files, as far as the engine edits them: a list of protobuf messages behind two magic numbers.

Only the wire format is known here (protobuf encoding guide, "Message structure"); a message is its fields in order, so
that fields of other versions of CRIU pass through an edit untouched.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from perdure.domain.errors import ImageInvalid

_COMMON_MAGIC = 0x54564319
"""CRIU, criu/include/magic.h: IMG_COMMON_MAGIC."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass
class Field:
    """One field of a message: a number (wire types 0, 1 and 5) or bytes (2)."""

    number: int
    wire: int
    value: int | bytes


Message = list[Field]


def parse(data: bytes) -> Message:
    """The fields of one message. ImageInvalid for anything that is none."""
    found: Message = []
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        wire = key & 7
        if wire == _VARINT:
            value, place = _varint(data, place)
            found.append(Field(key >> 3, wire, value))
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire, 0)
        if wire == _BYTES:
            length, place = _varint(data, place)
        part = data[place : place + length]
        if (not length and wire != _BYTES) or len(part) < length:
            raise ImageInvalid("an image of CRIU's cannot be read: a field is cut short or of an unknown kind")
        found.append(Field(key >> 3, wire, part if wire == _BYTES else int.from_bytes(part, "little")))
        place += length
    return found


def encode(message: Message) -> bytes:
    """The inverse of `parse`."""
    out = bytearray()
    for field in message:
        out += _number(field.number << 3 | field.wire)
        if isinstance(field.value, bytes):
            out += _number(len(field.value)) + field.value
        elif field.wire == _VARINT:
            out += _number(field.value)
        else:
            out += field.value.to_bytes(8 if field.wire == _FIXED64 else 4, "little")
    return bytes(out)


def number(message: Message, wanted: int) -> int:
    """The value of a numeric field; 0, protobuf's default, when it is absent."""
    return next((field.value for field in message if field.number == wanted and isinstance(field.value, int)), 0)


def numbers(message: Message, wanted: int) -> list[int]:
    """The values of a repeated numeric field, packed or not."""
    found: list[int] = []
    for field in message:
        if field.number != wanted:
            continue
        if isinstance(field.value, int):
            found.append(field.value)
            continue
        place = 0
        while place < len(field.value):
            value, place = _varint(field.value, place)
            found.append(value)
    return found


def part(message: Message, wanted: int) -> Message | None:
    """A message inside the message."""
    found = [field.value for field in message if field.number == wanted and isinstance(field.value, bytes)]
    return parse(found[0]) if found else None


def with_field(message: Message, wanted: int, value: int | bytes | Iterable[int] | None) -> Message:
    """The message with that field set, replaced or (None) taken out."""
    rest = [field for field in message if field.number != wanted]
    if value is None:
        return rest
    values: list[int | bytes] = [value] if isinstance(value, int | bytes) else list(value)
    return rest + [Field(wanted, _BYTES if isinstance(one, bytes) else _VARINT, one) for one in values]


def entries(image: bytes, magic: int) -> Iterator[bytes]:
    """The messages of an image of that kind, undecoded. ImageInvalid if it is another, or torn."""
    if len(image) < 8 or struct.unpack("<II", image[:8]) != (_COMMON_MAGIC, magic):
        raise ImageInvalid("an image of CRIU's is not of the kind that its name says")
    place = 8
    while place < len(image):
        size = int.from_bytes(image[place : place + 4], "little")
        entry = image[place + 4 : place + 4 + size]
        if place + 4 + size > len(image):
            raise ImageInvalid("an image of CRIU's ends in the middle of a record")
        yield entry
        place += 4 + size


def image(magic: int, messages: Iterable[bytes]) -> bytes:
    """The inverse of `entries`."""
    head = struct.pack("<II", _COMMON_MAGIC, magic)
    return head + b"".join(struct.pack("<I", len(message)) + message for message in messages)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
    raise ImageInvalid("an image of CRIU's cannot be read: a number does not end")


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
