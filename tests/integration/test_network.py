"""A job's sockets, clocks and identity over a restore on another node: what lives on, what ends, and how the job sees
it; and that nobody else on the node is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from perdure.domain.checkpoints import CheckpointKind, Manifest
from perdure.domain.errors import RestoreFailed
from tests.integration.engine_bed import Bed, Running
from tests.integration.engine_places import SERVER, wait_for
from tests.patience import PATIENCE
from worker_agent.engine import (
    Identity,
    continue_restored,
    ensure_layout,
    finish_restore,
    prepare_fresh,
    prepare_restore,
    take_checkpoint,
)
from worker_agent.engine.connections import outside
from worker_agent.engine.looking import look

pytestmark = [pytest.mark.criu]

JOB_ID = "22222222-3333-4444-5555-666666666666"
PORT = 7180


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    """A job whose nodes are connected to an echo server at SERVER."""
    made = Bed.make(600)
    try:
        with made.outside():
            made.new_node()
            yield made
    finally:
        await made.close()


async def fresh(bed: Bed, runc: str = "runc") -> Running:
    bed.command = ["/usr/bin/python3", "/jobs/network.py", "300", SERVER, str(PORT)]
    ensure_layout(bed.volume.root)
    container = bed.container()
    container = replace(container, tools=replace(container.tools, runc=runc))
    await prepare_fresh(container, epoch=1)
    running = bed.start(bed.launch(container, ["create"]))
    running.more_lines(3)
    return running


async def checkpoint(running: Running, epoch: int) -> Manifest:
    identity = Identity(JOB_ID, epoch=epoch, attempt=epoch, instance_id=f"i-{epoch:017x}", zone="us-east-1a")
    return await take_checkpoint(
        running.container,
        identity,
        kind=CheckpointKind.PERIODIC,
        limit_seconds=PATIENCE,
        keep=2,
        reserve_bytes=32 << 20,
    )


async def restored(bed: Bed, epoch: int, number: int) -> Running:
    container = bed.container()
    prepared = await prepare_restore(container, number, epoch=epoch, job_id=JOB_ID)
    running = bed.launch(container, ["restore", *prepared.argv])
    await finish_restore(running.container, prepared.manifest)
    await continue_restored(running.container, prepared.manifest)
    return running


def said(running: Running) -> list[dict[str, object]]:
    return [json.loads(line) for line in running.log().splitlines()]


def finish(running: Running) -> None:
    """The job comes to its end when it is asked to."""
    os.kill(running.container.init_pid, signal.SIGTERM)
    assert running.exit_code() == 0, running.log("stderr").decode()


def hears_of_its_loss(running: Running) -> None:
    """Until the job, going on, has met the end of its connection to outside."""
    running.more_lines(1)
    wait_for(lambda: bool(said(running)[-1].get("errors")), "the job hears of its lost connection")


@contextmanager
def neighbour(code: str) -> Iterator[subprocess.Popen[str]]:
    """Another process on the node (in its network). It has said a line when this begins."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


ASKS = f"""
import socket, sys
connection = socket.create_connection(("{SERVER}", 7777), timeout=300)
print("ready")
for line in sys.stdin:
    connection.sendall(line.encode())
    print(connection.recv(100).decode(), end="")
"""
LISTENS = f"""
import socket, time
with socket.create_server(("0.0.0.0", {PORT})):
    print("ready")
    time.sleep(600)
"""


@pytest.mark.row("Network", "host network: connections to outside end with a reset; those inside the job live on")
@pytest.mark.row("Network", "host network: listening and datagram sockets, moved to the new node's address")
@pytest.mark.row("Network", "host network: neighbours keep their connections over a restore")
@pytest.mark.row("Processes", "process ids inside the container, and the host name, stay")
async def test_outside_connections_are_reset_and_everything_else_lives_on(bed: Bed) -> None:
    running = await fresh(bed)
    assert running.container.freezer is not None
    found = outside(look(running.container.freezer.pids(), running.container.init_pid))
    assert [one.peer for one in found] == [f"{SERVER}:7777"] * 2 and found[0].owner.endswith(" python3")
    before = said(running)[-1]
    for epoch in (1, 2):
        manifest = await checkpoint(running, epoch)
        bed.kill(running)
        bed.change_node()
        own = f"198.18.77.{11 + epoch}"
        with neighbour(ASKS) as sibling:
            assert sibling.stdin is not None and sibling.stdout is not None
            running = await restored(bed, epoch + 1, manifest.number)
            hears_of_its_loss(running)
            sibling.stdin.write("still there\n")
            sibling.stdin.flush()
            assert sibling.stdout.readline() == "still there\n"
        after = said(running)[-1]
        assert after["errors"] == ["ConnectionResetError"], after
        assert after["again"] == "anew" and after["names"] == [own] * 3, after
        assert after["events"] != [], "a poll did not wake up"
        assert (after["pid"], after["host"]) == (before["pid"], before["host"])
    finish(running)
    assert said(running)[-1] == {"last": ["last words", ""]}


@pytest.mark.row(
    "Network", "host network: a port that is taken on the new node is named, and is not the checkpoint's fault"
)
async def test_a_taken_port_is_the_nodes_fault_and_named(bed: Bed) -> None:
    running = await fresh(bed)
    manifest = await checkpoint(running, 1)
    bed.kill(running)
    bed.change_node()
    with neighbour(LISTENS) as sibling, pytest.raises(RestoreFailed) as raised:
        await prepare_restore(bed.container(), manifest.number, epoch=2, job_id=JOB_ID)
    assert raised.value.node_fault
    assert f"TCP port {PORT}, which the job needs, is taken on this node by process {sibling.pid} (" in str(
        raised.value
    )
    running = await restored(bed, 3, manifest.number)
    hears_of_its_loss(running)
    finish(running)


@pytest.mark.row("Processes", "monotonic and boot-time clocks go on, on a node that booted later too")
async def test_clocks_never_run_backwards(bed: Bed) -> None:
    """The job begins on a machine that has been up for a day longer than the one it is restored on."""
    day = 86_400
    with older_machine(bed, day) as program:
        running = await fresh(bed, program)
        assert float(str(said(running)[0]["clock"])) > time.monotonic() + day - PATIENCE, "the first node is not older"
        running = await move(bed, running, 1)
    running = await move(bed, running, 2)
    finish(running)
    for name in ("clock", "boot"):
        seen = [float(str(line[name])) for line in said(running)[:-1]]
        assert all(0 < after - before < PATIENCE for before, after in pairwise(seen)), seen


async def move(bed: Bed, running: Running, epoch: int) -> Running:
    """A checkpoint, death, and the restore on another node."""
    manifest = await checkpoint(running, epoch)
    running.more_lines(1)
    bed.kill(running)
    bed.change_node()
    running = await restored(bed, epoch + 1, manifest.number)
    running.more_lines(2)
    return running


@contextmanager
def older_machine(bed: Bed, seconds: int) -> Iterator[str]:
    """A runc whose world has been up for so many seconds longer."""
    offsets = [f"--monotonic={seconds}", f"--boottime={seconds}"]
    holder = subprocess.Popen(["unshare", "--time", *offsets, "--fork", "--kill-child", "sleep", "600"])
    try:
        program = bed.folder / "older-runc"
        program.write_text(f'#!/bin/sh\nexec nsenter --time=/proc/{holder.pid}/ns/time_for_children runc "$@"\n')
        program.chmod(0o755)
        own = Path("/proc/self/ns/time").readlink()
        wait_for(lambda: Path(f"/proc/{holder.pid}/ns/time_for_children").readlink() != own, "a time namespace")
        yield str(program)
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.row("Network", "host network: restored on the same node, beside what is left of its own connections")
async def test_the_same_node_again(bed: Bed) -> None:
    running = await fresh(bed)
    manifest = await checkpoint(running, 1)
    bed.kill(running)
    running = await restored(bed, 2, manifest.number)
    hears_of_its_loss(running)
    finish(running)
    assert said(running)[-2]["errors"] == ["ConnectionResetError"]
