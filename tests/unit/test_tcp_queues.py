"""Bytes that were not sent when the job was frozen: what the images to restore from say about them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from perdure.domain.errors import ImageInvalid
from worker_agent.engine import criu_image
from worker_agent.engine.criu_image import Field, Message
from worker_agent.engine.tcp_queues import hold_back, send_held
from worker_agent.engine.tcp_timers import hurry

MAGIC, FILES_MAGIC, DESCRIPTORS_MAGIC = 0x51465506, 0x56303138, 0x56213732
RTO_MAX = 44
KERNEL = tuple(int(part) for part in os.uname().release.split(".")[:2])
SENT, UNSENT = b"not acknowledged", b"to be sent" * 300
ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING = 1, 4, 5, 7, 8, 9, 11
SOURCE_PORT, PEER_PORT = 7, 8


def stream(unsent: bytes, sequence: int = 10_000) -> bytes:
    """Of a connection that had received eight bytes."""
    numbers = {1: 8, 2: 5000, 14: 600, 3: len(SENT + unsent), 4: sequence, 12: len(unsent), 16: 700, 17: 4990}
    message = [*(Field(number, 0, value) for number, value in numbers.items()), Field(99, 2, b"of another version")]
    return criu_image.image(MAGIC, [criu_image.encode(message)]) + b"received" + SENT + unsent


def inet_socket(inode: int, state: int, shut: int = 0, mark: int = 0, peer: int = 0) -> Message:
    """Its port is its inode's number, and its peer's likewise."""
    options = criu_image.encode([Field(10, 0, mark)] if mark else [])
    ends = [Field(3, 0, socket.AF_INET), Field(SOURCE_PORT, 0, inode), Field(PEER_PORT, 0, peer)]
    fields = [Field(1, 0, inode + 100), Field(2, 0, inode), *ends, Field(6, 0, state), Field(14, 2, options)]
    return [*fields, Field(19, 0, shut)] if shut else fields


def saved(folder: Path, sockets: list[Message], streams: dict[int, bytes], reachable: list[int] | None = None) -> Path:
    folder.mkdir()
    entries = [criu_image.encode([Field(1, 0, 4), Field(4, 2, criu_image.encode(one))]) for one in sockets]
    (folder / "files.img").write_bytes(criu_image.image(FILES_MAGIC, entries))
    for inode, content in streams.items():
        (folder / f"tcp-stream-{inode:x}.img").write_bytes(content)
    seen = [inode + 100 for inode in (streams if reachable is None else reachable)]
    descriptors = [criu_image.encode([Field(1, 0, number), Field(4, 0, number)]) for number in seen]
    (folder / "fdinfo-2.img").write_bytes(criu_image.image(DESCRIPTORS_MAGIC, descriptors))
    return folder


def restoring(tmp_path: Path, changed: dict[str, bytes]) -> Path:
    """The images that a restore reads."""
    (tmp_path / "restoring").mkdir()
    for name, content in changed.items():
        (tmp_path / "restoring" / name).write_bytes(content)
    return tmp_path / "restoring"


def sockets_in(files: bytes) -> list[Message]:
    entries = [criu_image.parse(entry) for entry in criu_image.entries(files, FILES_MAGIC)]
    return [found for entry in entries if (found := criu_image.part(entry, 4)) is not None]


def message_of(image: bytes) -> Message:
    return criu_image.parse(next(criu_image.entries(image, MAGIC)))


def test_only_streams_with_unsent_bytes_change_and_only_in_that(tmp_path: Path) -> None:
    sockets = [inet_socket(0x1A, ESTABLISHED), inet_socket(0x2B, ESTABLISHED, shut=1)]
    images = saved(tmp_path / "images", sockets, {0x1A: stream(b""), 0x2B: stream(UNSENT)})
    changed = hold_back(images, None)
    assert changed.keys() == {"tcp-stream-2b.img", "files.img"}
    message = message_of(changed["tcp-stream-2b.img"])
    wanted = {1: 8, 2: 5000, 3: len(SENT), 4: 10_000 - len(UNSENT), 12: 0, 16: 700, 17: 4990}
    assert {number: criu_image.number(message, number) for number in wanted} == wanted
    assert Field(99, 2, b"of another version") in message
    assert changed["tcp-stream-2b.img"].endswith(b"received" + SENT)
    first, second = sockets_in(changed["files.img"])
    assert first == sockets[0]
    assert (criu_image.number(second, 6), criu_image.number(second, 19)) == (ESTABLISHED, 1)


@pytest.mark.parametrize(("shut", "shut_before"), [(2, 0), (3, 1)])
def test_one_that_was_ended_by_its_writer_comes_back_open(tmp_path: Path, shut: int, shut_before: int) -> None:
    """The end has a number of its own, behind the last byte; numbers begin anew at 2^32."""
    sequence = len(UNSENT) - 10
    images = saved(tmp_path / "images", [inet_socket(5, FIN_WAIT1, shut)], {5: stream(UNSENT, sequence)})
    changed = hold_back(images, None)
    (found,) = sockets_in(changed["files.img"])
    assert (criu_image.number(found, 6), criu_image.number(found, 19)) == (ESTABLISHED, shut_before)
    assert criu_image.number(message_of(changed["tcp-stream-5.img"]), 4) == (1 << 32) - 11


@pytest.mark.parametrize(("state", "unsent"), [(CLOSE_WAIT, b""), (CLOSE_WAIT, UNSENT), (LAST_ACK, UNSENT)])
def test_both_ends_of_one_that_one_end_has_ended_come_back_open(tmp_path: Path, state: int, unsent: bytes) -> None:
    shut = {CLOSE_WAIT: 1, LAST_ACK: 3}[state]
    sockets = [inet_socket(5, state, shut, peer=6), inet_socket(6, FIN_WAIT2, 2, peer=5)]
    images = saved(tmp_path / "images", sockets, {5: stream(unsent), 6: stream(b"")})
    changed = hold_back(images, None)
    assert [(criu_image.number(one, 6), criu_image.number(one, 19)) for one in sockets_in(changed["files.img"])] == [
        (ESTABLISHED, 0),
        (ESTABLISHED, 0),
    ]
    ended, ender = (message_of(changed[f"tcp-stream-{inode}.img"]) for inode in (5, 6))
    last = 10_000 - len(unsent) - (state == LAST_ACK)
    assert [criu_image.number(ended, number) for number in (2, 4, 16, 17)] == [4999, last, 701, 4989]
    assert [criu_image.number(ender, number) for number in (2, 4, 16, 17)] == [5000, 9999, 700, 4990]


def pair(folder: Path, unsent: bytes, has: int) -> Path:
    """An open connection: one end has something to send, and the other has so many bytes of its send queue."""
    queued = len(SENT + unsent)
    other = criu_image.encode([Field(1, 0, 8), Field(2, 0, 9000 + has), Field(4, 0, 5000)])
    streams = {5: stream(unsent, 9000 + queued), 6: criu_image.image(MAGIC, [other]) + b"received"}
    return saved(folder, [inet_socket(5, ESTABLISHED, peer=6), inet_socket(6, ESTABLISHED, peer=5)], streams)


def test_what_the_other_end_has_is_not_sent_again(tmp_path: Path) -> None:
    changed = hold_back(pair(tmp_path / "images", b"", len(SENT)), None)
    assert changed.keys() == {"tcp-stream-5.img"}, "nothing is left to be sent"
    message = message_of(changed["tcp-stream-5.img"])
    assert [criu_image.number(message, number) for number in (3, 4, 12, 14)] == [
        0,
        9000 + len(SENT),
        0,
        600 - len(SENT),
    ]
    assert changed["tcp-stream-5.img"].endswith(b"received")


@pytest.mark.skipif(os.geteuid() != 0, reason="copying a descriptor of a process needs root")
@pytest.mark.parametrize("unsent", [b"", UNSENT])
def test_what_was_sent_and_did_not_arrive_is_sent_once_both_ends_exist(tmp_path: Path, unsent: bytes) -> None:
    images = pair(tmp_path / "images", unsent, 4)
    changed = hold_back(images, None)
    message = message_of(changed["tcp-stream-5.img"])
    assert [criu_image.number(message, number) for number in (3, 4, 12, 14)] == [0, 9004, 0, 596]
    restored = restoring(tmp_path, changed)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as writer:
        reader, _ = listener.accept()
        options = criu_image.part(sockets_in(changed["files.img"])[0], 14)
        writer.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, criu_image.number(options or [], 10))
        with reader:
            assert send_held(images, restored, [os.getpid()]) == 1
            writer.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: reader.recv(1 << 16), b"")) == SENT[4:] + unsent


@pytest.mark.parametrize("has", [-1, len(SENT) + 1])
def test_numbers_that_do_not_fit_change_nothing(tmp_path: Path, has: int) -> None:
    assert hold_back(pair(tmp_path / "images", b"", has), None) == {}


@pytest.mark.parametrize("state", [CLOSE_WAIT, FIN_WAIT2])
def test_one_whose_other_end_is_gone_stays_as_it_is(tmp_path: Path, state: int) -> None:
    images = saved(tmp_path / "images", [inet_socket(5, state, peer=6)], {5: stream(b"")})
    assert hold_back(images, None) == {}


@pytest.mark.parametrize("state", [CLOSE, CLOSING])
def test_where_that_cannot_be_the_bytes_are_called_sent(tmp_path: Path, state: int) -> None:
    images = saved(tmp_path / "images", [inet_socket(5, state)], {5: stream(UNSENT)})
    changed = hold_back(images, None)
    assert changed.keys() == {"tcp-stream-5.img"}
    assert criu_image.number(message_of(changed["tcp-stream-5.img"]), 12) == 0
    assert changed["tcp-stream-5.img"].endswith(SENT + UNSENT)


def test_a_connection_on_its_way_through_a_socket_can_not_be_found_again(tmp_path: Path) -> None:
    images = saved(tmp_path / "images", [inet_socket(5, ESTABLISHED)], {5: stream(UNSENT)}, reachable=[])
    assert hold_back(images, None).keys() == {"tcp-stream-5.img"}


def test_another_kind_of_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tcp-stream-1a.img").write_bytes(criu_image.image(0x1234, []))
    with pytest.raises(ImageInvalid):
        hold_back(tmp_path, None)


@pytest.mark.skipif(os.geteuid() != 0, reason="copying a descriptor of a process needs root")
@pytest.mark.parametrize(("state", "mark"), [(ESTABLISHED, 0), (FIN_WAIT1, 7)])
def test_what_was_held_back_is_written_and_nothing_else_changes(tmp_path: Path, state: int, mark: int) -> None:
    unsent = bytes(range(256)) * 32_000  # more than the buffers of both ends hold
    images = saved(tmp_path / "images", [inet_socket(5, state, mark=mark)], {5: stream(unsent)})
    changed = hold_back(images, None)
    restored = restoring(tmp_path, changed)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as writer:
        reader, _ = listener.accept()
        options = criu_image.part(sockets_in(changed["files.img"])[0], 14)
        writer.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, criu_image.number(options or [], 10))
        size = writer.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        with reader:
            os.set_blocking(writer.fileno(), False)
            assert send_held(images, restored, [os.getpid()]) == 1
            assert writer.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == mark
            assert writer.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == size
            assert not os.get_blocking(writer.fileno()), "whether it blocks belongs to the job"
            if state == ESTABLISHED:
                writer.shutdown(socket.SHUT_WR)
            read = bytearray()
            while data := reader.recv(1 << 20):
                read += data
            assert read == unsent
            assert send_held(images, tmp_path / "no folder", [os.getpid()]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="copying a descriptor of a process needs root")
def test_one_end_says_its_last_word_before_the_other(tmp_path: Path) -> None:
    sockets = [inet_socket(5, LAST_ACK, 3, peer=6), inet_socket(6, FIN_WAIT2, 2, peer=5)]
    images = saved(tmp_path / "images", sockets, {5: stream(UNSENT), 6: stream(b"")})
    restored = restoring(tmp_path, hold_back(images, None))
    marks = [
        criu_image.number(criu_image.part(one, 14) or [], 10)
        for one in sockets_in((restored / "files.img").read_bytes())
    ]
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as writer:
        reader, _ = listener.accept()
        with reader:
            for one, mark in zip((writer, reader), marks, strict=True):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            assert send_held(images, restored, [os.getpid()]) == 2
            assert writer.recv(1) == b""
            read = b"".join(iter(lambda: reader.recv(1 << 16), b""))
            assert read == UNSENT


@pytest.mark.skipif(os.geteuid() != 0, reason="copying a descriptor of a process needs root")
def test_a_connection_that_did_not_come_back_is_not_passed_over(tmp_path: Path) -> None:
    images = saved(tmp_path / "images", [inet_socket(5, ESTABLISHED)], {5: stream(UNSENT)})
    restored = restoring(tmp_path, hold_back(images, None))
    with pytest.raises(OSError, match="did not come back"):
        send_held(images, restored, [os.getpid()])


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
