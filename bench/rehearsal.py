"""What a rehearsal costs the job beside which it runs: `python -m bench.rehearsal [ROUNDS] [MEBIBYTES...]`, as root.

The job keeps every CPU busy: one process each hashes its memory again and again and counts. Each round counts for as
long as a rehearsal takes, first without one and then during one: the pairs see the same machine. The ratio is the job's
speed during a rehearsal; what the job loses is (1 - ratio) x the rehearsal's length. Prints Markdown.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import struct
import sys
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from perdure.domain.checkpoints import CheckpointKind, RehearsalVerdict
from tests.integration.engine_bed import TOOLS, Bed, Running
from tests.integration.test_engine import JOB_ID, identity
from worker_agent.engine import ensure_layout, machine, prepare_fresh, take_checkpoint
from worker_agent.engine.overlay import seen
from worker_agent.rehearse.shielding import SETTINGS, network_settings
from worker_agent.rehearse.spec import Spec
from worker_agent.rehearse.staging import run_stage

T = TypeVar("T")
BUSY = """
import hashlib, mmap, os, struct
cpus, mebibytes = os.cpu_count(), {mebibytes}
with open('/data/count', 'w+b') as file:
    file.truncate(8 * cpus)
    count = mmap.mmap(file.fileno(), 8 * cpus)
for number in range(1, cpus):
    if os.fork() == 0:
        break
else:
    number = 0
memory = bytearray(os.urandom(1 << 20)) * (mebibytes // cpus)
print('ready', flush=True)
done = 0
while True:
    for start in range(0, len(memory), 1 << 20):
        memory[start:start + 32] = hashlib.sha256(memory[start:start + (1 << 20)]).digest()
        done += 1
        struct.pack_into('<Q', count, 8 * number, done)
"""


def counted(running: Running) -> int:
    """Mebibytes hashed so far, by all processes."""
    data = (seen(running.container.job_root, "data") / "count").read_bytes()
    return sum(struct.unpack(f"<{len(data) // 8}Q", data))


async def speed_during(running: Running, work: Awaitable[T]) -> tuple[float, float, T]:
    """Mebibytes a second while that is awaited, how long it took, and what it gave."""
    begun, before = time.monotonic(), counted(running)
    result = await work
    seconds = time.monotonic() - begun
    return (counted(running) - before) / seconds, seconds, result


async def measure(mebibytes: int, rounds: int) -> str:
    """One row of the table."""
    bed = Bed.make(mebibytes=3 * mebibytes + 1000)
    try:
        bed.new_node()
        bed.command = ["/usr/bin/python3", "-c", BUSY.format(mebibytes=mebibytes)]
        ensure_layout(bed.volume.root)
        container = bed.container()
        await prepare_fresh(container, epoch=1)
        running = bed.start(bed.launch(container, ["create"]))
        while running.log().count(b"ready") < (os.cpu_count() or 1):
            await asyncio.sleep(0.05)
        manifest = await take_checkpoint(
            running.container,
            identity(1),
            kind=CheckpointKind.PERIODIC,
            limit_seconds=120,
            keep=2,
            reserve_bytes=32 << 20,
        )
        spec = Spec.of(
            container,
            job_id=JOB_ID,
            number=manifest.number,
            own_network=False,
            network_settings=network_settings(SETTINGS),
            memory_bytes=(2 * mebibytes + 512) << 20,
            reserve_bytes=32 << 20,
            restore_seconds=300,
        )
        ratios, lengths = [], []
        length = 5.0
        for number in range(rounds + 1):
            without, _, _ = await speed_during(running, asyncio.sleep(length))
            during, length, answer = await speed_during(running, run_stage(spec, 400))
            assert answer.verdict is RehearsalVerdict.PASSED, answer
            if number:  # the first one reads from the disk what the others have in memory
                ratios.append(during / without)
                lengths.append(length)
        lost = statistics.median((1 - ratio) * length for ratio, length in zip(ratios, lengths, strict=True))
        low, high = min(ratios), max(ratios)
        return (
            f"| {mebibytes} MiB | {statistics.median(lengths):.1f} s | {statistics.median(ratios):.3f} "
            f"({low:.3f} to {high:.3f}) | {lost:.2f} s |"
        )
    finally:
        await bed.close()


async def main() -> None:
    """Entry."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    sizes = [int(word) for word in sys.argv[2:]] or [256, 1024]
    print("| memory of the job | a rehearsal takes | the job's speed during it, of its speed before | the job loses |")
    print("| --- | --- | --- | --- |")
    for mebibytes in sizes:
        print(await measure(mebibytes, rounds), flush=True)
    versions = await machine.describe(TOOLS)
    cpus, memory = os.cpu_count(), machine.total_bytes() >> 20
    print(f"\n{rounds} rounds; {cpus} CPUs, {memory} MiB, kernel {platform.release()}, runc {versions.runc}, ", end="")
    print(f"CRIU {versions.criu}, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}; ", end="")
    print(f"load before it {Path('/proc/loadavg').read_text().split()[0]}.")


if __name__ == "__main__":
    asyncio.run(main())
