"""The program beside one checkpoint: it takes the job's pages and puts the pages files together.

It waits for one line of JSON (Request), then for commands, one a line, and answers each with a line of JSON:

    (request)          → ready      the base's index is loaded, the memory is there
    predump PID…       → predump    until all is read; `hurry` ends it at once, and later writes at once
    pipes COUNT        → pipes      the images folder has them: the dump may begin
    written            → captured   the dump has ended and every page is taken: the job may go on
    finish             → finished   the pages files and their indexes are there; durable after a syncfs

`{"failed": …}` is the last answer: nothing that was begun can be used. It ends with its standard input, so it does not
outlive the agent; a dump that is at work then fails, because its pipes have no reader.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import queue
import resource
import select
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from perdure.domain.errors import ImageInvalid
from perdure.image.pages.assembly import Source, assemble
from perdure.image.pages.index import INDEX, PageIndex, PagesFile, read_index
from perdure.image.pages.matching import BLOCK, Taken, matcher
from perdure.image.pages.pipes import Pipes, pages_name
from perdure.image.pages.predump import predump
from perdure.image.pages.prints import PAGE
from perdure.image.pages.staging import Staging

# No pydantic in here, nor anything that imports it: loading it takes longer than all else that this program loads, and
# each checkpoint needs one.

NAME = "perdure-pages"
"""What the process calls itself, as `ps` and `top` show it."""
_PR_SET_NAME = 15
_NICE = 10
"""While the job runs it comes first."""


@dataclass(frozen=True)
class Request:
    """What one checkpoint wants. Sizes in bytes, paths absolute."""

    checkpoint: str
    """The checkpoint's folder, with `images/` in it."""
    images: str
    """The name of that folder of images."""
    number: int
    most_bytes: int
    """Of memory that will come, a predump's included."""
    most_written: int
    """Bytes that may go to the disk."""
    staging_bytes: int
    most_jumps: int
    """That 1 MiB of a pages file may make the disk do; 0: any number."""
    base: str = ""
    """The folder of the checkpoint with which pages are shared; empty for none."""
    base_files: list[PagesFile] = field(default_factory=list)
    """Its pages files."""
    predump_bytes: int = 0
    """That a predump may write, at most."""
    predump_seconds: float = 0.0

    @classmethod
    def of(cls, line: str) -> Request:
        """The agent's line."""
        said = json.loads(line)
        return cls(**{**said, "base_files": [PagesFile(**file) for file in said["base_files"]]})

    def line(self) -> str:
        """For the program that is to carry it out."""
        return json.dumps(asdict(self))


class Sink:
    """One checkpoint."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._folder = Path(request.checkpoint)
        self._images = self._folder / request.images
        self._sources: list[Source] = []
        self._starts: dict[str, int] = {}
        self._taken: dict[int, Taken] = {}
        self._pipes: Pipes | None = None
        self._hurry = threading.Event()
        self._captured = threading.Event()
        # First: from now on it is seen to work in that folder (tasks.users_of).
        self._staging = Staging(self._folder / "staging", request.staging_bytes)
        self.seed, prints, origins, self.doubt = self._load_base()
        self._matcher = matcher(
            prints,
            origins,
            number=request.number,
            seed=self.seed,
            staging=self._staging.memory,
            most_pages=request.most_bytes // PAGE + BLOCK,
        )
        self._staging.begin(lambda: self._matcher.staged)

    def _load_base(self) -> tuple[int, bytes, bytes, str]:
        """Seed, fingerprints and origins of the base's pages; and why there are none, if something is wrong with it."""
        try:
            return (*self._read_base(), "")
        except (ImageInvalid, OSError) as error:
            for source in self._sources:
                os.close(source.descriptor)
            self._sources, self._starts = [], {}
            return _seed(), b"", b"", str(error)

    def _read_base(self) -> tuple[int, bytes, bytes]:
        seed, prints, origins, first = _seed(), bytearray(), bytearray(), 0
        folder = Path(self._request.base)
        for image in self._request.base_files:
            index = read_index(folder / image.index, image.blake3)
            if self._sources and index.seed != seed:
                raise ImageInvalid(f"{folder / image.index} has another seed than the index before it")
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(folder / image.path, flags)
            self._sources.append(Source(first, index.pages, descriptor))
            size = os.fstat(descriptor).st_size
            if size != image.size or size != index.pages * PAGE:
                raise ImageInvalid(f"{folder / image.path} has {size} bytes, its index covers {index.pages} pages")
            self._starts[Path(image.path).name] = first
            seed, first = index.seed, first + index.pages
            prints += index.prints
            origins += index.origins
        return seed, bytes(prints), bytes(origins)

    def hurry(self) -> None:
        """A predump ends at once. From any thread."""
        self._hurry.set()

    def ready(self) -> dict[str, object]:
        return {"ready": True, "base_bytes": self._matcher.base * PAGE, "doubt": self.doubt}

    def predump(self, pids: list[int]) -> dict[str, object]:
        self._staging.set_eager(True)
        os.nice(_NICE)
        end = time.monotonic() + self._request.predump_seconds
        most = self._request.predump_bytes // PAGE

        def stop() -> bool:
            return self._hurry.is_set() or time.monotonic() > end or self._matcher.staged + BLOCK > most

        done = predump(pids, self._take, stop)
        self._staging.set_eager(False)
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        staged = self._matcher.staged * PAGE
        return {"predump": done.pages * PAGE, "staged_bytes": staged, "complete": done.complete}

    def pipes(self, count: int) -> dict[str, object]:
        self._staging.set_eager(self._hurry.is_set())
        self._pipes = Pipes(self._images, count)
        threading.Thread(target=self._collect, args=(self._pipes,), daemon=True).start()
        return {"pipes": count}

    def _collect(self, pipes: Pipes) -> None:
        try:
            pipes.take_all(self._take_pages)
            self._captured.set()
        except BaseException as error:
            _fail(error)
            os._exit(1)  # a pipe without a reader fails a dump that writes on

    def _take_pages(self, number: int, block: memoryview) -> None:
        taken = self._taken.get(number)
        if taken is None:
            taken = self._taken[number] = Taken()
            taken.next = self._starts.get(pages_name(number), taken.next)
        self._take(block, taken)

    def _take(self, block: memoryview, taken: Taken) -> None:
        if (self._matcher.staged + BLOCK) * PAGE > self._request.most_written:
            raise OSError(errno.ENOSPC, "what changed does not fit beside the reserve of the job volume")
        self._staging.make_room(BLOCK)
        self._matcher.take(block, taken, self._request.most_jumps)

    def written(self) -> dict[str, object]:
        assert self._pipes is not None
        self._pipes.all_written()
        self._captured.wait()
        return {"captured": sum(taken.pages for taken in self._taken.values()) * PAGE}

    def finish(self) -> dict[str, object]:
        assert self._pipes is not None
        self._staging.set_eager(True)
        staged = self._staging.finish()
        for number in self._pipes.opened:
            self._taken.setdefault(number, Taken())
        self._pipes.remove()
        (self._folder / INDEX).mkdir(mode=0o700)
        staging = Source(self._matcher.base, staged, self._staging.descriptor)
        files, extents = [], 0
        for number, taken in sorted(self._taken.items()):
            name = pages_name(number)
            extents += assemble(self._images / name, taken, self._sources, staging)
            index = PageIndex(self.seed, bytes(taken.prints), bytes(taken.origins))
            digest = index.write(self._folder / INDEX / f"{name}.index")
            path, size = f"{self._request.images}/{name}", taken.pages * PAGE
            files.append(asdict(PagesFile(path, size, blake3=digest, index=f"{INDEX}/{name}.index")))
        self._staging.close()
        return {
            "finished": files,
            "written_bytes": staged * PAGE,
            "extents": extents,
            "write_seconds": self._staging.write_seconds,
        }


def main() -> int:
    """Serve one checkpoint on standard input and output; 1 if it failed."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, NAME.encode(), 0, 0, 0)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        wanted = sys.stdin.readline()
        if not wanted or _agent_is_gone():
            return 0  # whoever cleans up after the agent must not find anything begun afterwards
        sink = Sink(Request.of(wanted))
        _say(sink.ready())
        for command, *words in _commands(sink):
            if command == "predump":
                _say(sink.predump([int(word) for word in words]))
            elif command == "pipes":
                _say(sink.pipes(int(words[0])))
            elif command == "written":
                _say(sink.written())
            elif command == "finish":
                _say(sink.finish())
    except (OSError, ImageInvalid, MemoryError) as error:
        _fail(error)
        return 1
    return 0


def _seed() -> int:
    return int.from_bytes(os.urandom(8), "little")


def _agent_is_gone() -> bool:
    """Nobody holds the other end of standard input any more, whatever is still in it."""
    poll = select.poll()
    poll.register(sys.stdin.fileno(), 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


def _commands(sink: Sink) -> Iterator[list[str]]:
    """`hurry` is heard while another command is carried out, and so is the end of the agent."""
    lines: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            if line.strip() == "hurry":
                sink.hurry()
            else:
                lines.put(line.split())
        os._exit(3)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        yield lines.get()


def _fail(error: BaseException) -> None:
    _say({"failed": str(error), "full": getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)})


def _say(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)
