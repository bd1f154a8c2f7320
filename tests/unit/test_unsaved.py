"""Descriptors that CRIU refuses or saves wrongly, found in this very process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator

import pytest

from worker_agent.engine import tasks, unsaved
from worker_agent.engine.descriptors import links

SEMAPHORES_SHOW = tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 5)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="copying a descriptor of a process needs root")


@contextlib.contextmanager
def opened(*descriptors: int) -> Iterator[dict[int, str]]:
    """What /proc shows for these descriptors of ours, closed afterwards."""
    try:
        shown = links(os.getpid())
        yield {number: shown[number] for number in descriptors}
    finally:
        for number in descriptors:
            os.close(number)


@needs_root
def test_ordinary_descriptors_are_nothing_to_speak_of(tmp_path: os.PathLike[str]) -> None:
    file = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)
    with opened(os.eventfd(3), *os.pipe(), file) as shown:
        assert unsaved.held(os.getpid(), shown) == ""


@pytest.mark.skipif(not SEMAPHORES_SHOW, reason="this kernel does not show it")
def test_an_eventfd_that_counts_one_by_one() -> None:
    with opened(os.eventfd(3, os.EFD_SEMAPHORE)) as shown:
        assert "EFD_SEMAPHORE" in unsaved.held(os.getpid(), shown)


@needs_root
def test_a_pipe_in_packet_mode() -> None:
    with opened(*os.pipe2(os.O_DIRECT)) as shown:
        assert "packet mode" in unsaved.held(os.getpid(), shown)


@needs_root
def test_a_message_queue() -> None:
    library = ctypes.CDLL("librt.so.1", use_errno=True)
    name = f"/perdure-test-{os.getpid()}".encode()
    queue = library.mq_open(name, os.O_RDWR | os.O_CREAT, 0o600, None)
    assert queue >= 0, os.strerror(ctypes.get_errno())
    library.mq_unlink(name)
    with opened(queue) as shown:
        assert "message queue" in unsaved.held(os.getpid(), shown)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_client_that_waits_until_it_is_accepted(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        shown = {listener.fileno(): os.readlink(f"/proc/self/fd/{listener.fileno()}")}
        assert unsaved.held(os.getpid(), shown) == ""
        with socket.create_connection(listener.getsockname()[:2]):
            reason = unsaved.held(os.getpid(), shown)
            assert reason == unsaved.WAITING_CLIENT and tasks.goes_away(f"process 1 (server) {reason}")
            listener.accept()[0].close()
            assert unsaved.held(os.getpid(), shown) == ""
