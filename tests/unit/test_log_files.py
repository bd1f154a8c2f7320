"""Ends of files, and archives whose names and sizes are safe whatever goes in."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perdure.log_files import MISSING, Archive, last_lines, members, safe_name, tail


@given(st.text(max_size=300))
@example("../../etc/passwd")
@example("/etc/shadow")
@example("a/./../..//b")
@example("C:\\windows\\x")
@example("...")
@example("\ud800")
def test_a_name_never_leads_out_of_the_folder(name: str) -> None:
    safe = PurePosixPath(safe_name(name))
    assert not safe.is_absolute()
    assert safe.parts
    assert not any(part in {"..", "."} or part.startswith(".") or "\\" in part for part in safe.parts)
    assert str(safe).isascii()


def test_a_plain_name_stays_as_it_is() -> None:
    assert safe_name("live/i-0a1b/agent.log") == "live/i-0a1b/agent.log"


@settings(max_examples=40)
@given(lines=st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"") + b"\n"), max_size=60))
def test_an_end_begins_with_a_whole_line_and_says_what_is_left_out(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("logs") / "a.log"
    whole = b"".join(lines)
    path.write_bytes(whole)
    kept = tail(path, 500)
    if len(whole) <= 500:
        assert kept == whole
        return
    first, _, rest = kept.partition(b"\n")
    assert whole.endswith(rest)
    assert whole[: len(whole) - len(rest)].endswith(b"\n")
    assert f"first {len(whole) - len(rest)} bytes".encode() in first


def test_only_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"".join(b"line %d\n" % number for number in range(1000)) + b"no end")
    assert last_lines(path, 3, 1 << 20) == b"line 998\nline 999\nno end"


def test_links_and_pipes_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError):
            tail(tmp_path / name, 10)


def test_an_archive_stays_within_its_limit_and_names_what_does_not_fit() -> None:
    file = io.BytesIO()
    archive = Archive(file, 100_000)
    noise = [os.urandom(30_000) for _ in range(5)]
    for number, content in enumerate(noise):
        archive.add(f"{number}.bin", content)
    archive.add("small.log", "fits")
    archive.lacks("agent.log", "nobody\nknows")
    archive.finish()
    assert len(file.getvalue()) <= 100_000
    found = dict(members(file.getvalue()))
    assert [found[f"{number}.bin"] for number in (0, 1)] == noise[:2]
    assert found["small.log"] == b"fits"
    missing = found[MISSING].decode()
    assert "4.bin: this bundle is full" in missing
    assert "agent.log: nobody knows" in missing


def test_two_of_one_name_are_both_there() -> None:
    file = io.BytesIO()
    archive = Archive(file, 1 << 20)
    archive.add("a/b.log", "1")
    archive.add("../a/b.log", "2")
    archive.finish()
    assert dict(members(file.getvalue())) == {
        "a/b.log": b"1",
        "a/b-2.log": b"2",
        MISSING: b"Nothing: all that was looked for is here.\n",
    }


def test_a_hostile_archive_is_read_within_limits() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../root/.ssh/authorized_keys", b"\0" * (8 << 20))
        archive.writestr("after.log", b"x")
    found = list(members(file.getvalue(), most_bytes=1000))
    assert [(name, len(data)) for name, data in found] == [("root/ssh/authorized_keys", 1000), ("after.log", 0)]
    assert list(members(b"no archive at all")) == []
    assert list(members(file.getvalue()[:-40])) == []
