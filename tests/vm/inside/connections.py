"""TCP connections inside the job on a kernel that cannot be told how soon to try again (before Linux 6.15)."""

from __future__ import annotations

import asyncio
import time

from tests.integration.engine_places import wait_for
from tests.patience import PATIENCE
from tests.vm.inside.bed import Scene

_FULL = """
import os, socket, time

def fill(one):
    sent = 0
    one.setblocking(False)
    while True:
        try:
            sent += one.send(bytes(65536))
        except BlockingIOError:
            if not_sent(one):
                return sent

def not_sent(one):
    return int.from_bytes(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 148)[144:], 'little')

listener = socket.create_server(('127.0.0.1', 0))
pairs = []
for ended in (False, True):
    writer = socket.create_connection(listener.getsockname())
    reader = listener.accept()[0]
    if ended:
        reader.shutdown(socket.SHUT_WR)
    pairs.append((writer, reader, fill(writer)))
    if ended:
        writer.shutdown(socket.SHUT_WR)
print('full', flush=True)
while not os.path.exists('/data/go'):
    time.sleep(.05)
print('not sent', *(not_sent(writer) > 0 for writer, _, _ in pairs), flush=True)
began = time.monotonic()
pairs[0][0].shutdown(socket.SHUT_WR)
for _, reader, sent in pairs:
    read = 0
    while data := reader.recv(1 << 16):
        read += len(data)
    print('all', read == sent, flush=True)
print('seconds', round(time.monotonic() - began, 1), flush=True)
"""


def late_reader(seconds: float) -> list[str]:
    """Full connections through a death; the reader begins so long after the restore. What the job says."""
    return asyncio.run(_late_reader(seconds))


async def _late_reader(seconds: float) -> list[str]:
    scene = Scene(["/usr/bin/python3", "-c", _FULL])
    running = await scene.fresh()
    wait_for(lambda: running.lines() > 0, "full connections", seconds=PATIENCE)
    manifest = await scene.checkpoint(running)
    scene.die(running)
    running = await scene.restored(manifest.number)
    time.sleep(seconds)  # it is the lateness that counts: the kernel's timer backs off meanwhile
    (scene.bed.volume.root / "seen/data/go").touch()
    running.exit_code(PATIENCE)
    return running.log().decode().splitlines()
