"""The sockets of a checkpoint's image: read, closed, moved; and the format they are written in."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import ImageInvalid, RestoreFailed
from worker_agent.engine import addresses, connections, criu_image
from worker_agent.engine.connections import Binding, adapt
from worker_agent.engine.criu_image import Field, Message, encode, image, parse
from worker_agent.engine.looking import look

MAGIC = 0x56303138
fields = st.one_of(
    st.builds(Field, st.integers(1, 2000), st.just(0), st.integers(0, 2**64 - 1)),
    st.builds(Field, st.integers(1, 2000), st.just(1), st.integers(0, 2**64 - 1)),
    st.builds(Field, st.integers(1, 2000), st.just(5), st.integers(0, 2**32 - 1)),
    st.builds(Field, st.integers(1, 2000), st.just(2), st.binary(max_size=300)),
)


@given(st.lists(fields))
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    assert parse(encode(message)) == message


@given(st.binary(max_size=100))
def test_other_bytes_are_refused_or_read_but_never_hang(data: bytes) -> None:
    try:
        parse(data)
        list(criu_image.entries(image(MAGIC, []) + data, MAGIC))
    except ImageInvalid:
        pass


def entry(family: int, state: int, source: tuple[str, int], peer: tuple[str, int], kind: int = 1) -> bytes:
    protocol = socket.IPPROTO_TCP if kind == 1 else socket.IPPROTO_UDP
    made = [
        Field(number, 0, value)
        for number, value in zip(range(1, 7), (7, 8, family, kind, protocol, state), strict=True)
    ]
    made += [Field(7, 0, source[1]), Field(8, 0, peer[1])]
    for number, (address, _) in ((11, source), (12, peer)):
        packed = socket.inet_pton(family, address)
        made += [Field(number, 0, int.from_bytes(packed[at : at + 4], "little")) for at in range(0, len(packed), 4)]
    made += [Field(14, 2, encode([Field(1, 0, 4096), Field(7, 0, 1)])), Field(99, 2, b"of another version")]
    return encode([Field(1, 0, 3), Field(2, 0, 9), Field(4, 2, encode(made))])


def images(folder: Path, *entries: bytes) -> Path:
    (folder / "files.img").write_bytes(image(MAGIC, [encode([Field(1, 0, 1), Field(2, 0, 5)]), *entries]))
    return folder


def states(files: bytes) -> list[tuple[int, int]]:
    found = [connections._socket_of(parse(one)) for one in criu_image.entries(files, MAGIC)]
    return [(one.state, criu_image.number(criu_image.part(one.message, 14) or [], 10)) for one in found if one]


V4, V6 = socket.AF_INET, socket.AF_INET6


def test_only_connections_within_the_job_live_on(tmp_path: Path) -> None:
    folder = images(
        tmp_path,
        entry(V4, 1, ("127.0.0.1", 4000), ("127.0.0.1", 80)),
        entry(V6, 1, ("::ffff:127.0.0.1", 80), ("::ffff:127.0.0.1", 4000)),
        entry(V4, 1, ("127.0.0.1", 4001), ("127.0.0.1", 631)),
        entry(V4, 1, ("10.0.0.5", 4002), ("52.1.2.3", 443)),
        entry(V6, 8, ("fd00::5", 4003), ("fd00::9", 5432)),
        entry(V4, 10, ("0.0.0.0", 80), ("0.0.0.0", 0)),
    )
    files, done = adapt(folder, {"10.0.0.5": "10.0.9.9", "fd00::5": "fd00::6"})
    assert files is not None
    assert states(files) == [
        (1, 0),
        (1, 0),
        (7, connections.CLOSED_MARK),
        (7, connections.CLOSED_MARK),
        (8, 0),
        (10, 0),
    ]
    assert [one.peer for one in done.closed] == ["127.0.0.1:631", "52.1.2.3:443"]
    assert done.moved == ("fd00::5",)
    assert done.bindings == (Binding(V4, 1, None, 80, reusable=True),)


def test_addresses_are_exchanged_in_what_stays(tmp_path: Path) -> None:
    folder = images(
        tmp_path,
        entry(V4, 10, ("10.0.0.5", 80), ("0.0.0.0", 0)),
        entry(V6, 10, ("::ffff:10.0.0.5", 81), ("::", 0)),
        entry(V4, 1, ("10.0.0.5", 4000), ("10.0.0.5", 80)),
        entry(V4, 1, ("10.0.0.5", 80), ("10.0.0.5", 4000)),
        entry(V4, 7, ("10.0.0.5", 53), ("0.0.0.0", 0), kind=2),
    )
    files, done = adapt(folder, {"10.0.0.5": "10.0.9.9"})
    assert files is not None and done.closed == ()
    found = [connections._socket_of(parse(one)) for one in criu_image.entries(files, MAGIC)]
    assert [str(one.source[0]) for one in found if one] == ["10.0.9.9"] * 5
    assert [str(one) for one in done.bindings] == [
        "TCP port 80 of 10.0.9.9", "TCP port 81 of 10.0.9.9", "UDP port 53 of 10.0.9.9",
    ]  # fmt: skip


def test_where_the_job_gets_a_new_address_nothing_at_the_old_one_lives_on(tmp_path: Path) -> None:
    """Docker's bridge: CRIU could not even bind the old address there."""
    folder = images(
        tmp_path,
        entry(V4, 8, ("172.17.0.2", 4003), ("10.0.0.9", 5432)),
        entry(V4, 8, ("127.0.0.1", 4003), ("127.0.0.1", 5432)),
        entry(V4, 1, ("172.17.0.2", 4000), ("172.17.0.2", 80)),
        entry(V4, 1, ("172.17.0.2", 80), ("172.17.0.2", 4000)),
    )
    files, done = adapt(folder, {"": ""})
    assert files is not None and [state for state, _ in states(files)] == [7, 8, 7, 7]
    assert len(done.closed) == 3


def test_a_connection_that_broke_unheard_says_so_again(tmp_path: Path) -> None:
    folder = images(tmp_path, entry(V4, 7, ("127.0.0.1", 4000), ("127.0.0.1", 80)))  # its inode is 8
    assert adapt(folder, {}, broken=[9])[0] is None
    files, done = adapt(folder, {}, broken=[8])
    assert files is not None and states(files) == [(7, connections.CLOSED_MARK)]
    assert done.closed == ()


def test_what_waits_to_be_heard_is_seen_and_left_waiting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        broken, ended, alive = (socket.create_connection(server.getsockname()) for _ in range(3))
        for client, linger in ((broken, 1), (ended, 0)):
            accepted, _ = server.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", linger, 0))
            accepted.close()
            assert select.select([client], [], [])[0]
        with broken, ended, alive:
            assert connections.breaks_unheard(look([os.getpid()], os.getpid())) == [os.fstat(broken.fileno()).st_ino]
            with pytest.raises(ConnectionResetError):
                broken.recv(1)
            assert connections.breaks_unheard(look([os.getpid()], os.getpid())) == []


def test_an_image_without_anything_to_change_is_used_as_it_is(tmp_path: Path) -> None:
    folder = images(tmp_path, entry(V4, 10, ("0.0.0.0", 80), ("0.0.0.0", 0)))
    assert adapt(folder, {})[0] is None


def test_a_torn_image_is_refused(tmp_path: Path) -> None:
    folder = images(tmp_path, entry(V4, 10, ("0.0.0.0", 80), ("0.0.0.0", 0)))
    (folder / "files.img").write_bytes((folder / "files.img").read_bytes()[:-3])
    with pytest.raises(ImageInvalid, match="in the middle"):
        adapt(folder, {})


async def test_a_port_that_a_process_has_is_named_with_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for need in (Binding(V4, 1, None, port), Binding(V6, 1, None, port), Binding(V4, 1, "127.0.0.1", port)):
            with pytest.raises(
                RestoreFailed, match=rf"TCP port {port}.* is taken on this node by process \d+"
            ) as raised:
                await addresses.check_ports([need])
            assert raised.value.node_fault
        await addresses.check_ports([Binding(V4, 1, "127.0.0.2", port), Binding(V4, 2, None, port)])
        await addresses.check_ports([Binding(V6, 1, None, port, v6only=True)])


async def test_what_ended_connections_leave_is_in_nobodys_way_who_reuses_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        port = server.getsockname()[1]
        accepted, _ = server.accept()
        accepted.close()
        client.recv(1)
    await addresses.check_ports([Binding(V4, 1, None, port, reusable=True)])


def test_addresses_of_this_machine_stay_and_others_become_its_first() -> None:
    own = addresses.exchange(["127.0.0.7"])
    assert own == {"127.0.0.7": "127.0.0.7"}
    assert set(addresses.exchange(["192.0.2.77"])) <= {"192.0.2.77"}
    with pytest.raises(ImageInvalid):
        addresses.exchange(["-dev lo"])


def test_a_live_process_outside_connections_are_listed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; s = socket.create_connection({server.getsockname()!r}); print(flush=True); input()"
        argv = [sys.executable, "-c", code]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None and client.stdout.readline()
            (found,) = connections.outside(look([client.pid], client.pid))
            client.kill()
    assert found.peer == f"127.0.0.1:{port}"
    assert found.owner.startswith(f"{client.pid} ")
