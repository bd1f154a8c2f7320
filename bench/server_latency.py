"""How quickly the API server answers over a large database: for bench/README.md.

`.venv/bin/python bench/server_latency.py URL [--seconds N] [--readers N]`, after bench/server_load.py has filled URL.

A real server process; this process holds the readers, a third one writes. Readers ask on a fixed clock, whether or not
the answer before has come (open loop): a request's time counts from when it was due, so that a server that stalls is
charged for all that waited. Then, one after the other and with nobody else: texts, depth, CSV, and as fast as it goes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from bench.server_load import QUEUES
from perdure.domain.jobs import Attempt, Job, JobEvent, JobOrder, JobState
from perdure.records.jobs.job_lists import JobFilter, list_jobs
from perdure.records.jobs.jobs import record_job
from perdure.records.schema.database import open_engine, reading, writing

ROWS_PER_SECOND = 200
ROWS_PER_BATCH = 10
FILTERS = [
    "status=Failed",
    f"queue={QUEUES[0]}",
    f"queue={QUEUES[3]}&status=Succeeded&status=Failed",
    "status=Running&status=Creating",
    f"queue={QUEUES[1]}&queue={QUEUES[2]}&created_after=2026-05-01T00:00:00Z",
    "sort=-finished_at",
    "sort=-protections&status=Failed",
    "",
]
TEXTS = ["align", "0123456", "call_variants-a", "genomics", "f07", "ab", "segment-b00", "nothing like it", "-4"]


class Connection:
    """One kept-alive HTTP/1.1 connection: cheap, so that the readers take little of the machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> bytes:
        """The body; RuntimeError unless the answer is a 200."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        reader, writer = self._streams
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        body = await reader.readexactly(int(length.split(b":")[1]))
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{path}: {head[:60]!r} {body[:300]!r}")
        return body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


class Server:
    """`python -m api` over the database."""

    def __init__(self, url: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        environment = os.environ | {
            "PERDURE_DATABASE_URL": url,
            "PERDURE_API_PORT": str(self.port),
            "PERDURE_LOG_LEVEL": "WARNING",
        }
        self._log = open("/var/tmp/perdure-bench-server.log", "w")  # noqa: SIM115
        self.process = subprocess.Popen([sys.executable, "-m", "api"], env=environment, stderr=self._log)

    async def ready(self) -> None:
        for _ in range(600):
            with contextlib.suppress(OSError):
                await Connection(self.port).get("/api/v1/jobs?limit=1")
                return
            await asyncio.sleep(0.1)
        raise RuntimeError("the server does not start")

    def peak_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        self._log.close()


def sample_ids(url: str, count: int) -> list[str]:
    """Ids of jobs from all over the table."""
    engine, chance = open_engine(url), random.Random(5)
    with reading(engine) as session:
        oldest = list_jobs(session, limit=1, order=JobOrder.OLDEST).items[0].created_at
        newest = list_jobs(session, limit=1).items[0].created_at
        found = []
        for _ in range(count):
            before = oldest + (newest - oldest) * chance.random() + timedelta(seconds=1)
            found.append(list_jobs(session, limit=1, where=JobFilter(created_before=before)).items[0].job_id)
    engine.dispose()
    return found


def deep_cursor(url: str, depth: int) -> str | None:
    """The cursor after `depth` jobs."""
    engine, cursor = open_engine(url), None
    with reading(engine) as session:
        for _ in range(0, depth, 5000):
            cursor = list_jobs(session, limit=min(5000, depth), after=cursor).next
    engine.dispose()
    return cursor


def write(url: str) -> None:
    """Until killed: jobs that run, ROWS_PER_BATCH new lines in each transaction, as the control worker writes them."""
    engine, now = open_engine(url), datetime.now(UTC)
    chance = random.Random(3)
    due, late = time.monotonic(), 0.0
    for number in itertools.count():
        index, revision = number % 500, number // 500 + 1
        attempt = Attempt(
            epoch=1, attempt=1, instance_id=f"i-{index:017x}", zone="us-east-1a", container_id="c", accepted_at=now
        )
        job = Job(
            job_id=f"written-{os.getpid()}-{index}",
            name=f"written-{index}",
            queue=chance.choice(QUEUES) if revision == 1 else QUEUES[index % len(QUEUES)],
            state=JobState.RUNNING,
            created_at=now,
            changed_at=datetime.now(UTC),
            vcpus=4,
            epoch=1,
            attempts=[attempt],
        )
        events = [
            JobEvent(sequence=(revision - 1) * ROWS_PER_BATCH + line, at=datetime.now(UTC), kind="checkpoint",
                     message="Checkpoint committed: 512 MiB in 4.2 s", epoch=1)
            for line in range(1, ROWS_PER_BATCH + 1)
        ]  # fmt: skip
        with writing(engine) as session:
            record_job(session, job, events, revision)
        due += ROWS_PER_BATCH / ROWS_PER_SECOND
        late = max(late, time.monotonic() - due)
        if number % 200 == 199:
            print(f"{number + 1} {late:.2f}", flush=True)
        time.sleep(max(0.0, due - time.monotonic()))


async def readers(port: int, paths: dict[str, Callable[[], str]], count: int, seconds: float) -> dict[str, list[float]]:
    """`count` readers, each with a request a second. Milliseconds from when each request was due."""
    times: dict[str, list[float]] = defaultdict(list)
    kinds = list(paths)

    async def read(number: int) -> None:
        free = [Connection(port)]
        chance = random.Random(number)
        begun = time.monotonic() + chance.random()
        asked = []

        async def ask(kind: str, due: float) -> None:
            connection = free.pop() if free else Connection(port)
            try:
                await connection.get(paths[kind]())
                times[kind].append((time.monotonic() - due) * 1000)
            except RuntimeError:
                times[f"{kind}, refused"].append((time.monotonic() - due) * 1000)
            free.append(connection)

        for turn in range(int(seconds)):
            due = begun + turn
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            asked.append(asyncio.create_task(ask(kinds[(number + turn) % len(kinds)], due)))
        await asyncio.gather(*asked)
        for connection in free:
            connection.close()

    await asyncio.gather(*(read(number) for number in range(count)))
    return times


async def one_by_one(port: int, path: str, times: int) -> list[float]:
    connection = Connection(port)
    taken = []
    for _ in range(times):
        begun = time.monotonic()
        await connection.get(path)
        taken.append((time.monotonic() - begun) * 1000)
    connection.close()
    return taken


async def saturate(port: int, path: Callable[[], str], at_once: int, seconds: float) -> tuple[float, list[float]]:
    """As many requests as the server answers, `at_once` at a time: per second, and milliseconds each."""
    taken: list[float] = []
    end = time.monotonic() + seconds

    async def ask() -> None:
        connection = Connection(port)
        while time.monotonic() < end:
            begun = time.monotonic()
            with contextlib.suppress(RuntimeError):  # refused: more at once than the server takes
                await connection.get(path())
                taken.append((time.monotonic() - begun) * 1000)
        connection.close()

    await asyncio.gather(*(ask() for _ in range(at_once)))
    return len(taken) / seconds, taken


async def download(port: int, path: str) -> tuple[float, int]:
    """Seconds and bytes of a chunked answer."""
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    size = 0
    while some := await reader.read(1 << 16):
        size += len(some)
    writer.close()
    return time.monotonic() - begun, size


def said(kind: str, times: list[float]) -> str:
    times = sorted(times)
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    return f"| {kind} | {len(times)} | {statistics.median(times):.1f} | {p99:.1f} | {times[-1]:.1f} |"


async def measure(chosen: argparse.Namespace) -> None:
    ids = sample_ids(chosen.url, 500)
    chance = random.Random(1)
    paths: dict[str, Callable[[], str]] = {
        "dashboard": lambda: chosen.dashboard,
        "list": lambda: f"/api/v1/jobs?{chance.choice(FILTERS)}",
        "job": lambda: f"/api/v1/jobs/{chance.choice(ids)}",
    }
    server = Server(chosen.url)
    writer = None
    try:
        await server.ready()
        await readers(server.port, paths, chosen.readers, 3)  # warm
        command = [sys.executable, __file__, chosen.url, "--write"]
        with open(chosen.written, "w") as told:
            writer = subprocess.Popen(command, stdout=told)
            await asyncio.sleep(2)
            load = os.getloadavg()
            times = await readers(server.port, paths, chosen.readers, chosen.seconds)
        writer.terminate()
        writer.wait(30)
        print(f"load before {load}, after {os.getloadavg()}; writer (transactions, most behind in s):"
              f" {Path(chosen.written).read_text().splitlines()[-1:]}")  # fmt: skip
        print("| endpoint | n | p50 ms | p99 ms | max ms |")
        for kind in sorted(times):
            print(said(kind, times[kind]), flush=True)
        for words in TEXTS:
            taken = await one_by_one(server.port, f"/api/v1/jobs?q={quote(words)}", 30)
            print(said(f"text `{words}`", taken), flush=True)
        cursor = deep_cursor(chosen.url, chosen.depth * 50)
        first, deep = [], []
        for _ in range(100):  # in turns, so that what else the machine does hits both
            first += await one_by_one(server.port, "/api/v1/jobs?limit=50", 1)
            deep += await one_by_one(server.port, f"/api/v1/jobs?limit=50&cursor={cursor}", 1)
        print(said("page 1", first))
        print(said(f"page {chosen.depth}", deep))
        print(f"depth ratio (medians): {statistics.median(deep) / statistics.median(first):.2f}", flush=True)
        for kind, path in paths.items():
            rate, taken = await saturate(server.port, path, 16, chosen.seconds / 6)
            print(f"{said(f'{kind}, 16 at once', taken)} {rate:.0f}/s", flush=True)
        server.forget_peak()
        before = server.peak_mib()
        seconds, size = await download(server.port, "/api/v1/nodes.csv?state=all")
        after = server.peak_mib()
        print(f"nodes.csv: {size / 1e6:.1f} MB in {seconds:.1f} s; the process: {before:.0f} MiB before, at most"
              f" {after:.0f} MiB while it was sent")  # fmt: skip
    finally:
        if writer is not None and writer.poll() is None:
            writer.kill()
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--depth", type=int, default=10_000, help="page that is compared with the first")
    parser.add_argument("--dashboard", default="/api/v1/report")
    parser.add_argument(
        "--written", default="/var/tmp/perdure-bench-writer.log", help="where the writer tells its pace"
    )
    parser.add_argument("--write", action="store_true", help="be the writer")
    chosen = parser.parse_args()
    if chosen.write:
        write(chosen.url)
    else:
        asyncio.run(measure(chosen))


if __name__ == "__main__":
    main()
