"""A network of its own for the browser: nothing but its loopback, on which the server under test listens.

Chromium drops every request when an interface comes or goes on its machine (ERR_NETWORK_CHANGED), and local stacks make
and remove interfaces all the time.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.patience import PATIENCE

_CLONE_NEWNET = 0x40000000
_CHUNK = 1 << 16


class Network:
    """A network namespace by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def listen(self, port: int = 0) -> socket.socket:
        """A socket that listens on this network's loopback. Only the thread that makes it goes there."""
        made: list[socket.socket | OSError] = []

        def make() -> None:
            try:
                place = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
                try:
                    if ctypes.CDLL(None, use_errno=True).setns(place, _CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                finally:
                    os.close(place)
                made.append(socket.create_server(("127.0.0.1", port)))
            except OSError as problem:
                made.append(problem)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]

    def program(self, path: Path, folder: Path) -> Path:
        """A program that begins in this network, as a file in `folder`."""
        made = folder / path.name
        made.write_text(f'#!/bin/sh\nexec {shutil.which("nsenter")} --net=/run/netns/{self.name} {path} "$@"\n')
        made.chmod(0o755)
        return made

    @contextmanager
    def forwarded(self, host: str, port: int, near: int = 0) -> Iterator[str]:
        """Base URL, in this network, of a server that listens elsewhere on this machine. `near`: its port here."""
        listener = self.listen(near)

        def accept() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                try:
                    far = socket.create_connection((host, port))
                except OSError:
                    near.close()
                    continue
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(one, other), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(_CHUNK):
            other.sendall(data)
    for end in (one, other):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def own_network() -> Iterator[Network]:
    """A new one, gone afterwards."""
    name = f"perdure-browser-{os.getpid()}"
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        yield Network(name)
    finally:
        _ip("netns", "delete", name)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=PATIENCE, capture_output=True)
