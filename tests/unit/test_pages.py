"""Shared pages: the compiled loop and the Python one agree to the byte, files put together are what was dumped, indexes
are read as untrusted input."""

from __future__ import annotations

import itertools
import json
import mmap
import os
import random
import subprocess
import sys
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.domain.checkpoints import ImageFile
from perdure.domain.errors import ImageInvalid
from perdure.image.pages import predump
from perdure.image.pages.index import INDEX, PageIndex, PagesFile, read_index, verify_pages
from perdure.image.pages.matching import BLOCK, NOWHERE, ZERO, Matcher, Taken, matcher
from perdure.image.pages.pipes import Pipes, release_writers
from perdure.image.pages.prints import PAGE, PRINT, compiled, first_wrong, print_of
from perdure.image.pages.sink import Request
from perdure.image.pages.staging import Staging
from tests.patience import PATIENCE

SEED = 2**63 + 7


def page(number: int) -> bytes:
    """A page of its own for each number; 0 is all zeros."""
    return bytes(PAGE) if number == 0 else random.Random(number).randbytes(64) * (PAGE // 64)


def content(pages: list[int]) -> bytes:
    return b"".join(map(page, pages))


def took(loop: Matcher, pages: list[int], jumps: int, file: Taken | None = None) -> Taken:
    file = file or Taken()
    for at in range(0, len(pages), BLOCK):
        loop.take(memoryview(bytearray(content(pages[at : at + BLOCK]))), file, jumps)
    return file


def staged_pages(loop: Matcher, memory: mmap.mmap) -> bytes:
    return memory[: loop.staged * PAGE]


def pages_of(file: Taken, base: bytes, staged: bytes) -> bytes:
    """What a file is put together to."""
    known, found = base + staged, bytearray()
    for at in range(0, len(file.runs), 3):
        first, count, source = file.runs[at : at + 3]
        assert first * PAGE == len(found), "a gap between runs"
        found += bytes(count * PAGE) if source == ZERO else known[source * PAGE : (source + count) * PAGE]
    return bytes(found)


def make(base: Taken | None, in_c: bool, number: int = 2, ring: int = 4096) -> tuple[Matcher, mmap.mmap]:
    memory = mmap.mmap(-1, ring * PAGE)
    prints, origins = (bytes(base.prints), bytes(base.origins)) if base else (b"", b"")
    made = matcher(prints, origins, number=number, seed=SEED, staging=memory, most_pages=4096, in_c=in_c)
    return made, memory


JOB = st.lists(st.integers(0, 12) | st.integers(0, 10**6), max_size=600)


MADE_UP = {"before": JOB, "now": JOB, "mixed": st.randoms(), "jumps": st.sampled_from([0, 1, 3, 24])}


def agree(before: list[int], now: list[int], mixed: random.Random, jumps: int) -> None:
    assert compiled() is not None, "scripts/native.sh was not run"
    now = [mixed.choice(before) if before and mixed.random() < 0.3 else number for number in now]
    now = before[: mixed.randrange(len(before) + 1)] + now
    results = []
    for in_c in (True, False):
        first, memory = make(None, in_c, number=1)
        base = took(first, before, jumps)
        dumped = pages_of(base, b"", staged_pages(first, memory))
        assert dumped == content(before)
        second, memory = make(base, in_c)
        warm = took(second, now[::2], jumps)  # as a predump does
        file = Taken(next=0 if before else NOWHERE)
        took(second, now, jumps, file)
        staged = staged_pages(second, memory)
        assert pages_of(file, dumped, staged) == content(now)
        results.append((base, warm, file, staged))
    assert results[0] == results[1]


@settings(max_examples=60, deadline=None)
@given(**MADE_UP)
def test_both_loops_agree_and_give_back_what_was_dumped(
    before: list[int], now: list[int], mixed: random.Random, jumps: int
) -> None:
    agree(before, now, mixed, jumps)


def test_the_compiled_loop_is_clean_under_sanitizers(tmp_path: Path) -> None:
    """The same made-up series, more of them, with AddressSanitizer and UBSan."""
    root = Path(__file__).parents[2]
    subprocess.run(["bash", "scripts/native.sh", "fuzz"], cwd=root, check=True)
    asan = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    script = """
from pathlib import Path
from hypothesis import given, settings
from perdure.image.pages import prints
prints.COMPILED = Path("build/_pages-sanitized.so")
assert prints.compiled() is not None
import tests.unit.test_pages as these
settings(max_examples=1500, deadline=None)(given(**these.MADE_UP)(these.agree))()
print("clean")
"""
    env = {**os.environ, "LD_PRELOAD": asan.stdout.strip(), "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "clean" in done.stdout, done.stderr


def jumps_of(file: Taken) -> int:
    """The most that a block of the file makes the disk do."""
    origins, most = array("Q", bytes(file.origins)), 0
    for at in range(0, len(origins), BLOCK):
        there = [origin for origin in origins[at : at + BLOCK] if origin != ZERO]
        most = max(most, sum(one + 1 != other for one, other in itertools.pairwise(there)))
    return most


@pytest.mark.parametrize("in_c", [True, False])
def test_a_series_does_not_fall_apart(in_c: bool) -> None:
    """Fault: sharing single pages without a limit gave 235,106 extents after fifteen checkpoints."""
    chance = random.Random(5)
    job = list(range(1, 2 * BLOCK + 1))
    file: Taken | None = None
    base = b""
    for number in range(1, 16):
        loop, memory = make(file, in_c, number=number)
        took(loop, job, 24)  # the predump
        for place in chance.sample(range(len(job)), 4):
            job[place] = chance.randrange(10**9)
        file = took(loop, job, 24, Taken(next=0 if base else NOWHERE))
        base = pages_of(file, base, staged_pages(loop, memory))
        assert base == content(job)
        assert jumps_of(file) <= 24
        for place in chance.sample(range(len(job)), 20):
            job[place] = chance.randrange(10**9)


def test_shifted_pages_are_found_and_new_ones_are_staged_once() -> None:
    first, memory = make(None, True, number=1)
    base = took(first, list(range(1, 301)), 24)
    second, _ = make(base, True)
    file = took(second, [999, 999, *range(1, 301), 999], 0, Taken(next=0))
    assert second.staged == 1
    assert list(file.runs) == [0, 1, 300, 1, 1, 300, 2, 301, 0], "a run may go on from the base into what is staged"
    assert memory[: 300 * PAGE] == content(list(range(1, 301)))


@pytest.mark.parametrize("in_c", [True, False])
def test_more_pages_than_there_is_room_for_are_refused(in_c: bool) -> None:
    loop = matcher(b"", b"", number=1, seed=SEED, staging=mmap.mmap(-1, BLOCK * PAGE), most_pages=10, in_c=in_c)
    with pytest.raises(MemoryError, match="more memory than was expected"):
        took(loop, list(range(1, 12)), 0)
    assert loop.staged == 0


def test_prints_are_xxh3_with_the_seed() -> None:
    assert print_of(page(3), SEED) != print_of(page(3), SEED + 1)
    pages, wanted = bytearray(content([1, 2, 3])), b"".join(print_of(page(n), SEED) for n in (1, 2, 3))
    assert first_wrong(memoryview(pages), SEED, memoryview(wanted)) == -1
    pages[2 * PAGE - 1] ^= 1
    assert first_wrong(memoryview(pages), SEED, memoryview(wanted)) == 1


# ---- the index


def written(folder: Path, pages: list[int]) -> ImageFile:
    (folder / "images").mkdir()
    (folder / INDEX).mkdir()
    (folder / "images/pages-1.img").write_bytes(content(pages))
    index = PageIndex(SEED, b"".join(print_of(page(number), SEED) for number in pages), bytes(8 * len(pages)))
    digest = index.write(folder / INDEX / "pages-1.img.index")
    return ImageFile(
        path="images/pages-1.img", size=len(pages) * PAGE, blake3=digest, index=f"{INDEX}/pages-1.img.index"
    )


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    image = written(tmp_path, [1, 0, 2, 3] * 500)
    verify_pages(tmp_path, image)
    for name in (image.path, image.index):
        path = tmp_path / name
        for at in (0, 30, path.stat().st_size // 2, path.stat().st_size - 1):
            with open(path, "r+b") as file:
                byte = os.pread(file.fileno(), 1, at)[0]
                os.pwrite(file.fileno(), bytes([byte ^ 1]), at)
                with pytest.raises(ImageInvalid, match="wrong checksum"):
                    verify_pages(tmp_path, image)
                os.pwrite(file.fileno(), bytes([byte]), at)
    verify_pages(tmp_path, image)


def test_a_file_that_is_shorter_or_longer_than_its_index_is_refused(tmp_path: Path) -> None:
    image = written(tmp_path, [1, 2, 3])
    with pytest.raises(ImageInvalid, match="its index covers 3 pages"):
        verify_pages(tmp_path, image.model_copy(update={"size": 4 * PAGE}))
    os.truncate(tmp_path / image.path, 2 * PAGE)
    with pytest.raises(ImageInvalid, match="ends before byte"):
        verify_pages(tmp_path, image)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_an_index_of_any_bytes_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    from blake3 import blake3

    path = tmp_path_factory.mktemp("index") / "noise"
    path.write_bytes(noise)
    with pytest.raises(ImageInvalid):
        read_index(path, blake3(noise).hexdigest())


# ---- staging, pipes, predump


def test_what_is_staged_beyond_the_ring_is_in_the_file(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "staging", 8 << 20)
    loop = matcher(b"", b"", number=1, seed=SEED, staging=staging.memory, most_pages=10_000)
    staging.begin(lambda: loop.staged)
    file, job = Taken(), list(range(1, 6000))
    for at in range(0, len(job), BLOCK):
        staging.make_room(BLOCK)
        loop.take(memoryview(bytearray(content(job[at : at + BLOCK]))), file, 0)
    assert staging.finish() == len(job)
    assert (tmp_path / "staging").read_bytes() == content(job)
    staging.close()
    assert not (tmp_path / "staging").exists()


def _write(folder: Path, pieces: dict[int, list[bytes]]) -> None:
    """As CRIU: one file after the other, some empty."""
    for number, parts in pieces.items():
        with open(folder / f"pages-{number}.img", "wb", buffering=0) as file:
            for part in parts:
                file.write(part)


def test_pipes_give_what_was_written_whatever_the_pieces(tmp_path: Path) -> None:
    chance = random.Random(3)
    files = {number: chance.randbytes(chance.randrange(900) * PAGE) for number in range(1, 20)} | {3: b"", 20: b""}
    pieces = {}
    for number, whole in files.items():
        cuts = sorted(chance.randrange(len(whole) + 1) for _ in range(9))
        pieces[number] = [whole[one:other] for one, other in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    pipes = Pipes(tmp_path, 40)
    found: dict[int, bytes] = dict.fromkeys(files, b"")
    writer = threading.Thread(target=_write, args=(tmp_path, pieces))

    def write() -> None:
        writer.start()
        writer.join()
        pipes.all_written()

    threading.Thread(target=write).start()
    pipes.take_all(lambda number, block: found.update({number: found[number] + bytes(block)}))
    assert found == files
    assert pipes.opened == set(files), "an empty file is a file too"
    pipes.remove()
    assert os.listdir(tmp_path) == []


def test_half_a_page_and_a_writer_that_stays_are_no_dump(tmp_path: Path) -> None:
    for name, wanted in (("half", "whole page"), ("stays", "still writes")):
        folder = tmp_path / name
        folder.mkdir()
        pipes = Pipes(folder, 1)
        writer = os.open(folder / "pages-1.img", os.O_WRONLY)
        os.write(writer, bytes(PAGE + (name == "half")))
        if name == "half":
            os.close(writer)
        pipes.all_written()
        with pytest.raises(OSError, match=wanted):
            pipes.take_all(lambda number, block: None)
        pipes.remove()
        if name == "stays":
            os.close(writer)


def test_a_writer_without_a_reader_is_let_go(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pages-1.img")
    failures: list[OSError] = []

    def write() -> None:
        try:
            with open(tmp_path / "pages-1.img", "wb", buffering=0) as file:
                while True:
                    file.write(bytes(PAGE))
        except OSError as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        release_writers(tmp_path)
        writer.join(0.01)
    assert isinstance(failures[0], BrokenPipeError)


MEMORY = """
import mmap, os, sys
held = [bytearray(os.urandom(64) * 64) for _ in range(300)]
own, empty = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), mmap.mmap(-1, 1 << 20)
own[:] = b"".join(bytes([n % 256]) * 4096 for n in range(1024))
print(os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-c", MEMORY]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None and started.stdout.readline()
        yield started
        started.kill()


def test_a_predump_reads_what_a_process_holds(process: subprocess.Popen[bytes]) -> None:
    seen: set[bytes] = set()

    def take(block: memoryview, into: Taken) -> None:
        seen.update(bytes(block[at : at + PAGE]) for at in range(0, len(block), PAGE))

    done = predump.predump([process.pid, 2**22 - 1], take, lambda: False)
    assert done.complete and done.pages >= 1024
    assert {bytes([number]) * PAGE for number in range(256)} <= seen
    stopped = predump.predump([process.pid], take, lambda: True)
    assert stopped.pages == 0 and not stopped.complete


# ---- the program


def test_the_program_answers_and_dies_with_its_agent(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    request = Request(
        checkpoint=str(tmp_path),
        images="images",
        number=1,
        most_bytes=64 << 20,
        most_written=1 << 30,
        staging_bytes=8 << 20,
        most_jumps=24,
        base=str(tmp_path / "missing"),
        base_files=[PagesFile(path="images/pages-1.img", size=PAGE, blake3="0" * 64, index="index/a")],
    )
    argv = [sys.executable, "-m", "perdure.image.pages"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sink:
        assert sink.stdin is not None and sink.stdout is not None
        print(request.line(), file=sink.stdin, flush=True)
        ready = json.loads(sink.stdout.readline())
        assert ready["base_bytes"] == 0 and "cannot be read" in ready["doubt"], "a full one is always possible"
        loaded = Path(f"/proc/{sink.pid}/maps").read_text()
        assert "xxhash" in loaded and "pydantic" not in loaded, "each checkpoint waits until this program is loaded"
        print("pipes 2", file=sink.stdin, flush=True)
        assert json.loads(sink.stdout.readline()) == {"pipes": 2}
        sink.stdin.close()
        assert sink.wait(PATIENCE) == 3
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sink:
        assert sink.stdin is not None and sink.stdout is not None
        print(request.line(), file=sink.stdin)
        sink.stdin.close()  # asked for by an agent that was killed before the program was loaded
        assert sink.wait(PATIENCE) == 0 and sink.stdout.read() == ""
    with pytest.raises(OSError):
        os.close(os.open(tmp_path / "images/pages-1.img", os.O_WRONLY | os.O_NONBLOCK))
    assert PRINT == 16
