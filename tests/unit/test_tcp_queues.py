"""Bytes that were not sent when the job was frozen: what the images to restore from say about them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from perdure.domain.errors import ImageInvalid
from worker_agent.engine import criu_image
from worker_agent.engine.criu_image import Field
from worker_agent.engine.tcp_queues import all_sent, hurry

MAGIC = 0x51465506
RTO_MAX = 44
KERNEL = tuple(int(part) for part in os.uname().release.split(".")[:2])


def stream(unsent: int) -> bytes:
    fields = [Field(number, 0, number * 1000) for number in (1, 2, 3, 4)]
    message = [*fields, Field(12, 0, unsent), Field(99, 2, b"of another version")]
    return criu_image.image(MAGIC, [criu_image.encode(message)]) + b"received" * 125 + b"to be sent" * 300


def test_only_streams_with_unsent_bytes_change_and_only_in_that(tmp_path: Path) -> None:
    (tmp_path / "tcp-stream-1a.img").write_bytes(stream(0))
    (tmp_path / "tcp-stream-2b.img").write_bytes(stream(2755072))
    (tmp_path / "files.img").write_bytes(b"another image")
    assert all_sent(tmp_path).keys() == {"tcp-stream-2b.img"}
    changed = all_sent(tmp_path)["tcp-stream-2b.img"]
    message = criu_image.parse(next(criu_image.entries(changed, MAGIC)))
    assert criu_image.number(message, 12) == 0
    assert [criu_image.number(message, number) for number in (1, 2, 3, 4)] == [1000, 2000, 3000, 4000]
    assert changed.endswith(b"of another version\x60\x00" + b"received" * 125 + b"to be sent" * 300)


def test_another_kind_of_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tcp-stream-1a.img").write_bytes(criu_image.image(0x1234, []))
    with pytest.raises(ImageInvalid):
        all_sent(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="copying a descriptor of a process needs root")
@pytest.mark.skipif(KERNEL < (6, 15), reason="the kernel cannot bound it")
def test_what_waits_to_be_sent_is_tried_each_second_and_gives_up_no_sooner_for_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as writer:
        reader, _ = listener.accept()
        with reader:
            assert hurry([os.getpid()]) == 0 and writer.getsockopt(socket.IPPROTO_TCP, RTO_MAX) > 1000
            writer.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    writer.send(bytes(65536))
            assert hurry([os.getpid()]) == 1
            assert writer.getsockopt(socket.IPPROTO_TCP, RTO_MAX) == 1000
            assert writer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) > 900_000
            assert reader.getsockopt(socket.IPPROTO_TCP, RTO_MAX) > 1000
