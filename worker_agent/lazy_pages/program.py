"""The program beside a lazily restored job: started by the agent, it goes on without it until all memory is there.

It listens where CRIU's restore looks for it, at `lazy-pages.socket` in CRIU's work folder, and takes one connection.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from perdure.domain.errors import ImageInvalid
from perdure.image.pages.index import PagesFile
from worker_agent.lazy_pages import guard
from worker_agent.lazy_pages.guard import Charge, Done, State
from worker_agent.lazy_pages.missing import Part
from worker_agent.lazy_pages.serving import Failed, Server
from worker_agent.lazy_pages.source import Source, Verifying

SOCKET = "lazy-pages.socket"
LISTENS = b"listening\n"


@dataclass(frozen=True)
class Request:
    """What one restore wants, as one JSON object on the standard input."""

    charge: Charge
    images: list[PagesFile]
    """The pages files, in the order in which their pages are counted."""
    later: dict[int, list[Part]]
    at_once: list[tuple[int, int]]

    @classmethod
    def of(cls, line: bytes) -> Request:
        """The agent's."""
        said = json.loads(line)
        return cls(
            Charge(**said["charge"]),
            [PagesFile(**image) for image in said["images"]],
            {int(number): [Part(*part) for part in parts] for number, parts in said["later"].items()},
            [(first, behind) for first, behind in said["at_once"]],
        )


def main() -> int:
    """Entry. Says `listening` when CRIU may come, and ends for the one who started it; the rest is told in the state
    file. If the job cannot be given its memory, the job is ended."""
    request = Request.of(sys.stdin.buffer.read())
    if os.fork():
        os._exit(0)
    guard.call_itself(guard.NAME)
    charge, done = request.charge, Done()
    begun, own = time.monotonic(), os.getpid()

    def tell(stage: str, reason: str = "") -> None:
        charge.tell(State(stage, own, reason, round(time.monotonic() - begun, 3)))

    source = Source(Path(charge.checkpoint), request.images)
    listener = _listen(charge.work_folder)
    guard.start(charge, done)
    tell("serving")
    os.write(1, LISTENS)
    os.dup2(2, 1)  # the agent reads until nobody can say more
    server = Server(source, request.later, Verifying(source, request.at_once))
    try:
        if server.serve(listener, partial(tell, "sound")):
            tell("drained")
        else:
            tell("left", "the restore ended before all stood")
    except (Failed, ImageInvalid, OSError) as problem:
        charge.end_job(str(problem), own)
    done.say()
    return 0


def _listen(folder: str) -> socket.socket:
    """At CRIU's name in this folder, whose path may be longer than an address can be."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    os.chdir(folder)
    Path(SOCKET).unlink(missing_ok=True)
    listener.bind(SOCKET)
    listener.listen(1)
    os.chdir("/")
    return listener
