"""Log files for people: their ends, and zip archives of them with limits and names that are safe to unpack."""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

MISSING = "MISSING.txt"
"""The member that says what could not be had, and why. Every archive has one; an empty list says so too."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._+@=-]+")
_LONGEST_PART = 100
_RESERVED = 16 << 10
"""Bytes kept free for the last member and the archive's own table."""
_TEXT = {".log", ".txt", ".json", ".jsonl"}


def safe_name(name: str) -> str:
    """A relative path of plain parts: whatever `name` holds, unpacking it writes below the folder it is unpacked in."""
    parts = [_UNSAFE.sub("_", part)[:_LONGEST_PART].lstrip(".") for part in name.split("/")]
    return "/".join(part for part in parts if part) or "unnamed"


def tail(path: Path, most_bytes: int) -> bytes:
    """The last bytes of a regular file, from the begin of a line; a first line says if some were left out.

    OSError if it cannot be read or is no regular file (a link neither).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    return read_tail(descriptor, most_bytes)


def read_tail(descriptor: int, most_bytes: int) -> bytes:
    """The same of an open file, which is closed."""
    with open(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no regular file")
        size = status.st_size
        if size <= most_bytes:
            return file.read(most_bytes)
        file.seek(size - most_bytes)
        kept = file.read(most_bytes)
    begin = kept.find(b"\n", 0, most_bytes // 2) + 1  # 0 where one line fills half of it
    kept = kept[begin:]
    return (
        b"# The first %d bytes of this file are left out; its last %d follow.\n" % (size - len(kept), len(kept)) + kept
    )


def last_lines(path: Path, lines: int, most_bytes: int) -> bytes:
    """The last `lines` lines of a regular file, at most `most_bytes` of them. OSError as for `tail`."""
    return b"".join(tail(path, most_bytes).splitlines(keepends=True)[-lines:])


class Archive:
    """A zip archive in the making, at most `most_bytes` large: what does not fit is named in MISSING.txt instead."""

    def __init__(self, file: IO[bytes], most_bytes: int) -> None:
        self._file = file
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED)
        self._left = most_bytes - _RESERVED
        self._names: set[str] = set()
        self._missing: list[str] = []

    def add(self, name: str, content: bytes | str) -> None:
        """A member; its name is made safe and, if need be, one of its own."""
        data = content.encode("utf-8", "replace") if isinstance(content, str) else content
        name = self._free(safe_name(name))
        needed = len(zlib.compress(data)) + 2 * len(name) + 128
        if needed > self._left:
            self.lacks(name, "this bundle is full")
            return
        self._left -= needed
        self._names.add(name)
        self._zip.writestr(name, data)

    def add_file(self, name: str, path: Path, most_bytes: int) -> None:
        """The end of a file; one that does not exist is left out without a word, one that cannot be read with one."""
        try:
            self.add(name, tail(path, most_bytes))
        except FileNotFoundError:
            return
        except OSError as problem:
            self.lacks(name, problem.strerror or str(problem))

    def lacks(self, what: str, why: str) -> None:
        """A line of MISSING.txt."""
        self._missing.append(f"{safe_name(what)}: {' '.join(why.split())[:500]}")

    def finish(self) -> None:
        """Write what is missing and the archive's table. Nothing can be added any more."""
        text = "\n".join(self._missing[:200]) or "Nothing: all that was looked for is here."
        self._zip.writestr(MISSING, text[: _RESERVED // 2] + "\n")
        self._zip.close()

    def _free(self, name: str) -> str:
        stem, dot, end = name.rpartition(".")
        number, free = 1, name
        while free in self._names:
            number += 1
            free = f"{stem}-{number}{dot}{end}" if stem else f"{name}-{number}"
        return free


def members(content: bytes, most_bytes: int = 16 << 20, most: int = 200) -> Iterator[tuple[str, bytes]]:
    """Names (made safe) and contents of an archive that somebody else made: at most `most` of them, `most_bytes` in all
    whatever they claim. What cannot be read ends the list."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist()[:most]:
                with archive.open(entry) as file:
                    data = file.read(max(0, most_bytes))
                most_bytes -= len(data)
                yield safe_name(entry.filename), data
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError):
        return


def is_text(name: str) -> bool:
    """Can a member of that name be shown as text?"""
    return os.path.splitext(name)[1] in _TEXT
