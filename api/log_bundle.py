"""Puts log bundles together: what nodes sent, what the living one says now, the records, the server's own logs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select
from sqlmodel import Session

from api.serving.access_log import access_log_file
from perdure.contracts.logs import CollectedLogs
from perdure.domain.errors import UnknownNode
from perdure.domain.jobs import Job
from perdure.domain.nodes import Node, NodeState
from perdure.log_files import MISSING, Archive, members, read_tail
from perdure.records.jobs import log_bundles
from perdure.records.jobs.events import list_events
from perdure.records.jobs.jobs import get_job, list_checkpoints
from perdure.records.nodes.nodes import get_node
from perdure.records.schema.database import reading
from perdure.records.schema.ledger_tables import ledger

LARGEST = 64 << 20
"""Bytes of a whole bundle."""
SERVER_LOG_BYTES = 1 << 20
"""Of the end of each of the server's own logs."""
_EVENTS_PAGE = 1000
_AROUND = timedelta(minutes=5)
"""Before a job's begin and after its end, of the server's logs."""


class Known:
    """What the records say of a job or node before its node is asked."""

    def __init__(self, engine: Engine, *, job_id: str = "", instance_id: str = "") -> None:
        """Raises UnknownJob, UnknownNode. Blocks."""
        self.job: Job | None = None
        self.node: Node | None = None
        with reading(engine) as session:
            if job_id:
                self.job = get_job(session, job_id)
                instance_id = self.job.attempts[-1].instance_id if self.job.attempts else ""
            try:
                self.node = get_node(session, instance_id) if instance_id else None
            except UnknownNode:
                if not job_id:
                    raise
        self.instance_id = instance_id

    @property
    def containers(self) -> list[str]:
        """Of the job, on the node that is asked."""
        attempts = self.job.attempts if self.job else []
        return [one.container_id for one in attempts if one.instance_id == self.instance_id]

    @property
    def silent(self) -> str:
        """Why nobody need be asked; empty: somebody should."""
        if not self.instance_id:
            return "no node has had a container of this job yet."
        if self.node is not None and self.node.state is NodeState.GONE:
            return f"{self.instance_id} is gone."
        return ""


def write_bundle(
    archive: Archive, engine: Engine, known: Known, live: CollectedLogs, server_log: Path | None, admin: bool
) -> None:
    """Everything about a job or a node. Blocks."""
    with reading(engine) as session:
        if known.job is not None:
            _add_job(archive, session, known.job)
            kept = log_bundles.of_job(session, known.job.job_id)
        else:
            kept = log_bundles.of_node(session, known.instance_id)
        if known.node is not None:
            archive.add("node.json", known.node.model_dump_json(indent=1))
        _add_live(archive, known.instance_id, live)
        _add_kept(archive, kept)
    _add_server_logs(archive, known.job, server_log, admin)
    archive.finish()


def _add_job(archive: Archive, session: Session, job: Job) -> None:
    archive.add("job.json", job.model_dump_json(indent=1))
    checkpoints = [
        {**checkpoint.model_dump(mode="json"), "offered": offered}
        for checkpoint, offered in list_checkpoints(session, job.job_id)
    ]
    archive.add("checkpoints.json", _json(checkpoints))
    lines = session.execute(select(ledger).where(ledger.c.job_id == job.job_id).order_by(ledger.c.at, ledger.c.key))
    archive.add("ledger.json", _json([dict(line._mapping) for line in lines]))
    archive.add("timeline.json", _json([event.model_dump(mode="json") for event in _events(session, job.job_id)]))


def _events(session: Session, job_id: str) -> Iterator[Any]:
    after = 0
    while page := list_events(session, job_id, after_sequence=after, limit=_EVENTS_PAGE):
        yield from page
        after = page[-1].sequence


def _add_live(archive: Archive, instance_id: str, live: CollectedLogs) -> None:
    at = f"live/{instance_id or 'no-node'}"
    if live.failure:
        archive.lacks(at, live.failure)
    _unpack(archive, at, live.content)


def _add_kept(archive: Archive, kept: Iterator[tuple[log_bundles.KeptBundle, bytes]]) -> None:
    any_kept = False
    for bundle, content in kept:
        any_kept = True
        of_job = f"-{bundle.job_id}-epoch-{bundle.epoch}" if bundle.job_id else ""
        at = f"kept/{bundle.at:%Y%m%dT%H%M%SZ}-{bundle.kind}-{bundle.instance_id}{of_job}"
        _unpack(archive, at.replace("..", "_"), content)
    if not any_kept:
        archive.lacks("kept", "no node has sent logs of this by itself (yet)")


def _unpack(archive: Archive, at: str, content: bytes) -> None:
    if not content:
        return
    found = False
    for name, data in members(content):
        found = True
        archive.add(f"{at}/{name}", data)
    if not found:
        archive.lacks(at, "what the node sent is not a readable zip archive")


def _add_server_logs(archive: Archive, job: Job | None, server_log: Path | None, admin: bool) -> None:
    if not admin:
        archive.lacks("server", "only admins get the server's own logs: they tell what others did")
        return
    span = (job.created_at - _AROUND, (job.finished_at or datetime.now(UTC)) + _AROUND) if job else None
    for name, read in (("server.log", read_server_log), ("access.log", read_access_log)):
        try:
            text = read(server_log, SERVER_LOG_BYTES)
        except OSError as problem:
            archive.lacks(f"server/{name}", str(problem))
            continue
        archive.add(f"server/{name}", _within(text, span) if span else text)


def _within(text: bytes, span: tuple[datetime, datetime]) -> bytes:
    """The lines whose time lies in the span, and those without one, which go with the line before."""
    kept: list[bytes] = []
    inside = True
    for line in text.splitlines(keepends=True):
        at = _time_of(line)
        inside = span[0] <= at <= span[1] if at is not None else inside
        if inside:
            kept.append(line)
    return b"".join(kept)


def _time_of(line: bytes) -> datetime | None:
    try:
        at = datetime.fromisoformat(json.loads(line)["timestamp"])
    except (ValueError, KeyError, TypeError):
        return None
    return at if at.tzinfo is not None else None


def read_server_log(server_log: Path | None, most_bytes: int) -> bytes:
    """The end of the server's log: of its file, else of its standard error if that is a file. OSError says why not."""
    if server_log is not None:
        return _end(server_log, most_bytes)
    try:
        return read_tail(os.open("/proc/self/fd/2", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), most_bytes)
    except OSError as problem:
        raise OSError("the server logs to its standard error; set PERDURE_LOG_FILE to keep its log") from problem


def read_access_log(server_log: Path | None, most_bytes: int) -> bytes:
    """The end of the access log. OSError says why there is none."""
    if server_log is None:
        raise OSError("there is no access log; set PERDURE_LOG_FILE to keep one")
    return _end(access_log_file(server_log), most_bytes)


def _end(path: Path, most_bytes: int) -> bytes:
    """Of a log file and, where it was rotated a moment ago, of the one before."""
    newest = read_tail(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), most_bytes)
    before = path.with_name(f"{path.name}.1")
    left = most_bytes - len(newest)
    if left <= 0 or not before.exists():
        return newest
    return read_tail(os.open(before, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), left) + newest


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, default=str) + "\n"


__all__ = ["LARGEST", "MISSING", "Known", "read_access_log", "read_server_log", "write_bundle"]
