"""Places for the engine's tests: a job volume in a file, nodes as network namespaces."""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure import waiting
from tests.patience import PATIENCE

SERVER = "198.18.77.1"
"""An address of the range for benchmarks (RFC 2544): it is nobody's."""

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_FS_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2


def tool(*argv: str | Path) -> str:
    """Run a program that must succeed."""
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout.strip()


def wait_for(condition: Callable[[], bool], what: str, seconds: float | None = None, pause: float = 0.02) -> None:
    """Until the condition holds; looked at every `pause` seconds."""
    waiting.until(condition, seconds or PATIENCE, pause, what)


class Volume:
    """A job volume: an XFS image that is mounted on one node at a time."""

    def __init__(self, image: Path, mount_point: Path, mebibytes: int, *, reflink: bool = True) -> None:
        self.image, self.root, self.loop = image, mount_point, ""
        mount_point.mkdir()
        tool("truncate", "-s", f"{mebibytes}M", image)
        tool("mkfs.xfs", "-q", "-m", f"reflink={reflink:d}", image)

    def attach(self) -> None:
        self.loop = tool("losetup", "--find", "--show", self.image)
        tool("mount", "-o", "nouuid", self.loop, self.root)

    def detach(self) -> None:
        """A namespace that still holds it keeps it busy for a moment."""
        if self.loop:
            wait_for(lambda: subprocess.run(["umount", str(self.root)], capture_output=True).returncode == 0, "umount")
            tool("losetup", "--detach", self.loop)
            self.loop = ""

    def lose_power(self) -> None:
        """What was not synced is gone."""
        descriptor = os.open(self.root, os.O_RDONLY)
        fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, _NO_LOG_FLUSH.to_bytes(4, sys.byteorder))
        os.close(descriptor)

    def move(self) -> None:
        """To another zone: snapshot, new volume. A mount namespace that somebody made meanwhile may still hold the file
        system: then a copy would be torn."""
        wait_for(lambda: not tool("losetup", "--associated", self.image), "the volume free of other namespaces")
        fresh = self.image.with_suffix(f".{secrets.token_hex(2)}")
        tool("cp", "--sparse=always", self.image, fresh)
        self.image.unlink()
        self.image = fresh


class Node:
    """A network namespace with loopback up. While entered, programs started by this thread run in it."""

    def __init__(self) -> None:
        self.name = f"perdure-test-{secrets.token_hex(3)}"
        self.cable = ""
        tool("ip", "netns", "add", self.name)
        tool("ip", "-n", self.name, "link", "set", "lo", "up")

    def enter(self) -> None:
        descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        set_network(descriptor)
        os.close(descriptor)

    def connect(self, number: int) -> None:
        """A cable to the network that this thread is in, which gets the address SERVER."""
        self.cable = outer = self.name.removeprefix("perdure-")
        tool("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        tool("ip", "address", "add", f"{SERVER}/24", "dev", outer)
        tool("ip", "link", "set", outer, "up")
        tool("ip", "-n", self.name, "address", "add", f"198.18.77.{10 + number}/24", "dev", "eth0")
        tool("ip", "-n", self.name, "link", "set", "eth0", "up")

    def remove(self) -> None:
        if self.cable:
            tool("ip", "link", "delete", self.cable)
        tool("ip", "netns", "delete", self.name)


def set_network(descriptor: int) -> None:
    assert _libc.setns(descriptor, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


@contextmanager
def echo_server() -> Iterator[None]:
    """Answers with what it gets, at port 7777 of the network that this thread is in."""
    with socket.create_server(("0.0.0.0", 7777)) as listener:
        argv = [sys.executable, "-c", _ECHO]
        server = subprocess.Popen(argv, stdin=listener.fileno())
        try:
            yield
        finally:
            server.kill()
            server.wait()


_ECHO = """
import socket, threading
def echo(connection):
    while data := connection.recv(100):
        connection.sendall(data)
listener = socket.socket(fileno=0)
while True:
    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
"""
