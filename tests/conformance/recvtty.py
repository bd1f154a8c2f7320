#!/usr/bin/python3
"""Takes terminals that a container runtime sends, in place of runc's own `recvtty`, which is not in Debian's packages.

    recvtty [--pid-file FILE] [--mode null|single] [--no-stdin] SOCKET

Reads what containers write to their terminals; `single` shows the first one's and then ends, `null` throws all away.
Standard library only.
"""

from __future__ import annotations

import argparse
import array
import contextlib
import os
import socket
import sys
import threading


def received(connection: socket.socket) -> int:
    """The descriptor that the runtime sends over this connection; -1 without one."""
    _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(array.array("i").itemsize))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return array.array("i", data[:4])[0]
    return -1


def drain(terminal: int, show: bool) -> None:
    """Read until the container has closed it."""
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 4096):
            if show:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
    os.close(terminal)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pid-file")
    parser.add_argument("--mode", choices=("null", "single"), default="single")
    parser.add_argument("--no-stdin", action="store_true", help="as always: nothing is ever written to a terminal")
    parser.add_argument("socket")
    asked = parser.parse_args()
    if asked.pid_file:
        with open(asked.pid_file, "w") as file:
            file.write(str(os.getpid()))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(asked.socket)
        server.listen()
        while True:
            connection, _ = server.accept()
            terminal = received(connection)
            connection.close()
            if asked.mode == "single":
                drain(terminal, show=True)
                return
            if terminal >= 0:
                threading.Thread(target=drain, args=(terminal, False), daemon=True).start()


if __name__ == "__main__":
    main()
