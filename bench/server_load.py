"""Fills a database with made-up jobs, as many as a large site has in a year: for bench/server_latency.py.

`PYTHONPATH=. .venv/bin/python bench/server_load.py URL [--jobs N] [--events N] [--nodes N] [--copies N] [--seed N]`

The same seed makes the same rows. The schema is the product's own; rows go in table by table, by COPY (PostgreSQL) or
in one transaction (SQLite), with the secondary indexes made afterwards; the rollups are made by the product from the
ledger. Per job: about 20 timeline lines (those of jobs that ran together interleave, as they would), 1.2 attempts, 2
checkpoints, 2 lines of the ledger. --copies: a few jobs and so many copies of each finished one (bench/copies.py).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

from sqlalchemy import text
from sqlalchemy.schema import CreateIndex, DropIndex
from sqlmodel import SQLModel

from bench.copies import copy_finished
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.jobs import Attempt, Job, JobState
from perdure.domain.nodes import Node
from perdure.records.costs.rollups import rebuild_rollups
from perdure.records.jobs.job_texts import text_of
from perdure.records.jobs.jobs import LISTS
from perdure.records.schema.database import migrate, open_engine, writing
from perdure.records.schema.list_tables import JOB_TEXT_INDEX

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
END = datetime(2026, 11, 1, tzinfo=UTC)
SPAN = timedelta(days=365)
TOGETHER = 2000
"""Jobs that run at the same time."""
TOOLS = [
    "align",
    "sort",
    "call_variants",
    "annotate",
    "segment",
    "fold",
    "dock",
    "merge",
    "index",
    "qc",
    "assemble",
    "count",
    "filter",
    "plot",
    "train",
]
TEAMS = ("genomics", "imaging", "proteins", "models")
QUEUES = [f"{team}-{kind}" for team in TEAMS for kind in ("spot", "long", "urgent")]
FINISHED = (JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED)
UNFINISHED = (JobState.RUNNING, JobState.RUNNING, JobState.CREATING, JobState.CHECKPOINTING)
ZONES = ["us-east-1a", "us-east-1b", "us-east-1c"]
KINDS = ["attached", "volume", "started", "checkpoint", "checkpoint", "checkpoint", "checkpoint", "remark"]

Row = dict[str, Any]
EVENT_COLUMNS = ["position", "job_id", "sequence", "at", "kind", "message", "level", "epoch"]
TABLES = ("nodes", "jobs", "job_texts", "attempts", "checkpoints", "events", "ledger")


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def template(value: Any, **extra: Any) -> dict[str, Any]:
    """A row's columns with a domain value's defaults, as they are stored."""
    row = {name: _stored(one) for name, one in value.model_dump(exclude=LISTS).items()}
    return {**row, **extra}


def _stored(value: Any) -> Any:
    if isinstance(value, datetime):
        return micros(value)
    if isinstance(value, dict | list):
        return json.dumps(value)
    return str(value) if isinstance(value, str) else value


class Maker:
    """Rows of a size and seed."""

    def __init__(self, jobs: int, events: int, nodes: int, seed: int) -> None:
        self.jobs, self.nodes = jobs, nodes
        self._lines_per_job = max(1, round(events / jobs))
        self._seed = seed
        self._step = int(SPAN / timedelta(microseconds=1) / jobs)
        self._first = micros(END - SPAN)
        self.last_position = jobs + jobs * self._lines_per_job

    def chance(self, *what: object) -> random.Random:
        return random.Random(f"{self._seed} {what}")

    def job_ids(self, start: int, count: int) -> list[str]:
        chance = self.chance("ids", start)
        return [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(count)]

    def batches(self) -> Iterator[tuple[int, list[Row]]]:
        """Jobs in the order of their creation, TOGETHER at a time."""
        empty = template(
            Job(job_id="", created_at=END), revision=20, position=0, instance_id=None, zone=None, stored_ending_at=None
        )
        for start in range(0, self.jobs, TOGETHER):
            chance = self.chance("jobs", start)
            count = min(TOGETHER, self.jobs - start)
            made = []
            for number, job_id in enumerate(self.job_ids(start, count), start):
                created = self._first + number * self._step
                age = self.jobs - number
                if age <= TOGETHER and age % 2:
                    state = chance.choice(
                        (JobState.RUNNING, JobState.RUNNING, JobState.CREATING, JobState.CHECKPOINTING)
                    )
                else:
                    state = chance.choices((JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED), (90, 8, 2))[0]
                lasted = int(chance.lognormvariate(8.5, 1.0) * 1e6)
                over = state in (JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED)
                made.append(
                    empty
                    | {
                        "job_id": job_id,
                        "name": f"{chance.choice(TOOLS)}-{chance.choice('abcdef')}{number:07}",
                        "queue": QUEUES[min(int(chance.expovariate(0.4)), len(QUEUES) - 1)],
                        "state": str(state),
                        "vcpus": float(chance.choice((1, 2, 4, 8))),
                        "memory_mib": 4096,
                        "created_at": created,
                        "changed_at": created + lasted,
                        "finished_at": created + lasted if over else None,
                        "epoch": 1,
                        "protections": min(int(chance.expovariate(1.5)), 9),
                        "checkpoints_committed": 2,
                        "max_rootfs_bytes": chance.randrange(1 << 34),
                        "position": number + 1,
                        "batch_status": "SUCCEEDED" if over else "RUNNING",
                    }
                )
            yield start, made

    def rows_of_jobs(self, start: int, jobs: list[Row]) -> Iterator[tuple[str, Iterator[Row]]]:
        """Rows of each table that belong to these jobs."""
        attempts = list(self._attempts(start, jobs))
        newest = {one["job_id"]: {"instance_id": one["instance_id"], "zone": one["zone"]} for one in attempts}
        yield "jobs", (job | newest[job["job_id"]] for job in jobs)
        yield "job_texts", self._job_texts(start, jobs)
        yield "attempts", iter(attempts)
        yield "checkpoints", self._checkpoints(start, jobs)
        yield "ledger", self._ledger(start, jobs)

    def _job_texts(self, start: int, jobs: list[Row]) -> Iterator[Row]:
        for number, job in enumerate(jobs, start + 1):
            yield {"number": number, "job_id": job["job_id"], "text": text_of(job["job_id"], job["name"], job["queue"])}

    def events(self, start: int, jobs: list[Row]) -> Iterator[tuple[Any, ...]]:
        """The timelines of these jobs, as values of EVENT_COLUMNS."""
        count, chance = self._lines_per_job, self.chance("events", start)
        lines = []
        for job in jobs:
            step = max(1, (job["changed_at"] - job["created_at"]) // count)
            for sequence in range(1, count + 1):
                lines.append((job["created_at"] + sequence * step, job["job_id"], sequence))
        lines.sort()
        for position, (at, job_id, sequence) in enumerate(lines, self.jobs + start * count + 1):
            rare = chance.random()
            kind, level = KINDS[sequence % len(KINDS)], "info"
            if rare < 0.01:
                kind, level = ("notice", "warning") if rare < 0.008 else ("checkpoint failed", "error")
            message = f"Checkpoint {sequence} committed: {sequence * 37 % 900} MiB in {sequence % 7}.{sequence % 10} s"
            yield position, job_id, sequence, at, kind, message, level, 1

    def _attempts(self, start: int, jobs: list[Row]) -> Iterator[Row]:
        chance = self.chance("attempts", start)
        empty = template(
            Attempt(epoch=1, attempt=1, instance_id="", zone="", container_id="c" * 64, accepted_at=END), job_id=""
        )
        for number, job in enumerate(jobs, start):
            for epoch in range(1, 3 if number % 5 == 0 else 2):
                yield empty | {
                    "job_id": job["job_id"],
                    "epoch": epoch,
                    "attempt": epoch,
                    "instance_id": node_id(min(self.nodes - 1, number * self.nodes // self.jobs + chance.randrange(3))),
                    "zone": chance.choice(ZONES),
                    "accepted_at": job["created_at"],
                    "started_at": job["created_at"] + 1_000_000,
                    "ended_at": job["finished_at"],
                    "end": "exited" if job["finished_at"] else None,
                }

    def _checkpoints(self, start: int, jobs: list[Row]) -> Iterator[Row]:
        empty = template(
            Checkpoint(
                number=1,
                kind=CheckpointKind.PERIODIC,
                epoch=1,
                frozen_at=END,
                committed_at=END,
                phases={"frozen": 0.4, "dump": 3.2, "commit": 0.1},
                cpu_features="avx avx2 avx512f",
            ),
            job_id="",
            offered=False,
        )
        for job in jobs:
            for number in (1, 2):
                at = job["created_at"] + number * 900_000_000
                yield empty | {
                    "job_id": job["job_id"],
                    "number": number,
                    "frozen_at": at,
                    "committed_at": at + 4_000_000,
                    "image_bytes": number << 28,
                }

    def _ledger(self, start: int, jobs: list[Row]) -> Iterator[Row]:
        figures: Row = dict.fromkeys(SQLModel.metadata.tables["ledger"].c.keys(), 0)
        for job in jobs:
            shared = figures | {"job_id": job["job_id"], "queue": job["queue"], "estimated": False, "detail": "{}"}
            over = job["finished_at"] is not None
            yield shared | {
                "key": "job",
                "kind": "job",
                "at": job["created_at"],
                "jobs": 1,
                "jobs_succeeded": int(job["state"] == "Succeeded"),
                "jobs_failed": int(job["state"] == "Failed"),
                "jobs_stopped": int(job["state"] == "Stopped"),
            }
            lasted = (job["changed_at"] - job["created_at"]) // 1000
            yield shared | {
                "key": "instance/1/whole",
                "kind": "instance",
                "at": job["changed_at"] if over else job["created_at"],
                "cpu_ms": int(lasted * job["vcpus"]),
                "instance_micros": lasted // 40,
                "share_micros": lasted // 80,
                "on_demand_micros": lasted // 15,
                "checkpoint_attempts": 2,
                "checkpoint_successes": 2,
                "protections": job["protections"],
            }

    def node_rows(self) -> Iterator[Row]:
        empty = template(
            Node(
                instance_id="",
                zone="",
                region="us-east-1",
                pay_type="spot",
                arch="x86_64",
                vcpus=8,
                memory_mib=32768,
                cpu_model="AMD EPYC 7R13",
                cpu_vendor="AuthenticAMD",
                cpu_features="avx avx2",
                ips=["10.0.0.1"],
                agent_version="0.1.0",
            ),
            position=0,
        )
        empty["notice"] = None
        step = int(SPAN / timedelta(microseconds=1) / self.nodes)
        for number in range(self.nodes):
            chance = self.chance("node", number)
            seen = self._first + number * step
            gone = number < self.nodes - 50
            yield empty | {
                "instance_id": node_id(number),
                "zone": chance.choice(ZONES),
                "instance_type": chance.choice(("m5.2xlarge", "c5.2xlarge", "r5.2xlarge")),
                "state": "gone" if gone else "ready",
                "host_name": f"ip-10-{number >> 16}-{number >> 8 & 255}-{number & 255}",
                "first_seen_at": seen,
                "launched_at": seen - 60_000_000,
                "changed_at": seen,
                "ended_at": seen + int(chance.lognormvariate(9, 1) * 1e6) if gone else None,
                "ended_by": chance.choice(("aws", "user")) if gone else "",
            }


def node_id(number: int) -> str:
    return f"i-{number:017x}"


def load(url: str, maker: Maker, copies: int = 0) -> None:
    """Fill the empty database at `url`; says how long each part took."""
    engine = open_engine(url)
    migrate(engine)
    sqlite = engine.dialect.name == "sqlite"
    raw = engine.raw_connection()
    driver: Any = raw.driver_connection
    if sqlite:
        # What is half loaded is thrown away anyhow.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-400000", "temp_store=FILE"):
            driver.execute(f"PRAGMA {pragma}")
    tables = [SQLModel.metadata.tables[name] for name in TABLES]
    aside = [index for table in tables for index in table.indexes]
    for index in aside:
        driver.execute(str(DropIndex(index).compile(engine)))
    if not sqlite:
        driver.execute(f"DROP INDEX {JOB_TEXT_INDEX}")
    fill = fill_sqlite if sqlite else fill_postgresql
    with timed("rows"):
        fill(driver, "nodes", *columns_and_values("nodes", maker.node_rows()))
        for start, jobs in maker.batches():
            for name, rows in maker.rows_of_jobs(start, jobs):
                fill(driver, name, *columns_and_values(name, rows))
            fill(driver, "events", EVENT_COLUMNS, maker.events(start, jobs))
            if start % 50_000 == 0:
                driver.commit()
                print(f"  {start} jobs", file=sys.stderr, flush=True)
    if copies:
        with timed("copies"):
            copy_finished(driver.execute, copies, maker.jobs, maker.last_position)
    for index in aside:
        with timed(str(index.name)):
            driver.execute(str(CreateIndex(index).compile(engine)))
    if not sqlite:
        with timed(JOB_TEXT_INDEX):
            driver.execute(f"CREATE INDEX {JOB_TEXT_INDEX} ON job_texts USING gin (text gin_trgm_ops)")
    driver.execute(f"UPDATE positions SET last = {maker.last_position + copies * maker.jobs}")
    if not sqlite:
        driver.execute("SELECT setval(pg_get_serial_sequence('job_texts', 'number'), max(number)) FROM job_texts")
    driver.commit()
    raw.close()
    engine.dispose()
    with timed("rollups"), writing(engine) as session:
        rebuild_rollups(session, END)
    with timed("statistics"), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE" if sqlite else "VACUUM ANALYZE"))
    engine.dispose()


def columns_and_values(name: str, rows: Iterator[Row]) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    columns = list(SQLModel.metadata.tables[name].c.keys())
    return columns, map(itemgetter(*columns), rows)


def fill_sqlite(driver: Any, name: str, columns: list[str], values: Iterator[tuple[Any, ...]]) -> None:
    if not driver.in_transaction:
        driver.execute("BEGIN")
    names, marks = ", ".join(f'"{column}"' for column in columns), ", ".join("?" * len(columns))
    driver.executemany(f"INSERT INTO {name} ({names}) VALUES ({marks})", values)


def fill_postgresql(driver: Any, name: str, columns: list[str], values: Iterator[tuple[Any, ...]]) -> None:
    names = ", ".join(f'"{column}"' for column in columns)
    with driver.cursor() as cursor, cursor.copy(f"COPY {name} ({names}) FROM STDIN") as copy:
        for row in values:
            copy.write_row(row)


@contextmanager
def timed(what: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="of an empty database: sqlite:///... or postgresql+psycopg://...")
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=20_000_000)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--copies", type=int, default=0)
    parser.add_argument("--seed", type=int, default=11)
    chosen = parser.parse_args()
    with timed("all"):
        load(chosen.url, Maker(chosen.jobs, chosen.events, chosen.nodes, chosen.seed), chosen.copies)


if __name__ == "__main__":
    main()
