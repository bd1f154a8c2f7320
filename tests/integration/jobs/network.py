"""Holds sockets of every kind open and says, ten times a second, what has become of them.

network.py SECONDS SERVER PORT: one JSON object a line, until SIGTERM or for so long. The job listens at PORT on all
addresses and at PORT + 1 on the node's own; it talks to itself over loopback and over the node's own address, and to
the echo server at SERVER:7777 through a connection that waits for a read, one that is polled, and one whose answer it
has not read yet.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
import time

seconds, server, port = float(sys.argv[1]), (sys.argv[2], 7777), int(sys.argv[3])
errors: list[str] = []


def listener(address: str, number: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, number))
    made.listen()
    return made


def pair(to: socket.socket, address: str) -> tuple[socket.socket, socket.socket]:
    client = socket.create_connection((address, to.getsockname()[1]), timeout=300)
    accepted, _ = to.accept()
    accepted.settimeout(300)
    return client, accepted


def waits(connection: socket.socket) -> None:
    try:
        errors.append(f"read {connection.recv(10)!r}")
    except OSError as error:
        errors.append(type(error).__name__)


waiting, polled = (socket.create_connection(server) for _ in range(2))
own = waiting.getsockname()[0]
everywhere, here = listener("0.0.0.0", port), listener(own, port + 1)
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind((own, port))
inside = [pair(everywhere, "127.0.0.1"), pair(here, own)]
# The other end of these closed after it had answered: the answer can still be read, then the end.
ended = [pair(everywhere, "127.0.0.1")]
ended[0][1].sendall(b"last words")
ended[0][1].close()
threading.Thread(target=waits, args=(waiting,), daemon=True).start()
poller = select.poll()
poller.register(polled, select.POLLIN)

asked: list[int] = []
signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
for number in range(int(seconds * 10)):
    if asked:
        break
    for client, accepted in inside:
        client.sendall(b"ping")
        assert accepted.recv(10) == b"ping"
    events = [event for _, event in poller.poll(0)]
    # What the other thread hears while this round asks anew belongs to the next round.
    heard = list(errors)
    again = None
    if heard:
        try:
            with socket.create_connection(server, timeout=300) as fresh:
                fresh.sendall(b"anew")
                again = fresh.recv(10).decode()
        except OSError as error:
            again = repr(error)
    said = {
        "number": number,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "clock": time.monotonic(),
        "boot": time.clock_gettime(time.CLOCK_BOOTTIME),
        "errors": heard,
        "events": events,
        "again": again,
        "names": [one.getsockname()[0] for one in (here, datagrams, inside[1][0])],
    }
    print(json.dumps(said), flush=True)
    time.sleep(0.1)
print(json.dumps({"last": [ended[0][0].recv(20).decode(), ended[0][0].recv(20).decode()]}), flush=True)
