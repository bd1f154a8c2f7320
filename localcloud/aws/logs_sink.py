"""What containers write, as CloudWatch Logs has it: the awslogs driver's part.

One stream per attempt in /aws/batch/job. Lines are split as Docker splits them (at 16 KiB), empty ones are dropped as
the driver drops them. Nothing here is the truth about a job's output: that is the log of the job volume.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from localcloud.aws.account import LOG_GROUP

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_logs.type_defs import InputLogEventTypeDef

log = logging.getLogger(__name__)

LONGEST_LINE = 16 * 1024
MOST_BYTES = 16 * 1024 * 1024
"""Kept of one attempt: moto holds it all in memory, and a job may write without end."""
MOST_EVENTS = 1000
"""In one PutLogEvents, 10,000 being CloudWatch's limit."""
FLUSH_SECONDS = 0.5


@dataclass
class _Stream:
    name: str
    written: int = 0
    partial: dict[str, bytes] = field(default_factory=dict)
    events: list[InputLogEventTypeDef] = field(default_factory=list)


class LogSink:
    """Takes output from link threads, and puts it into CloudWatch Logs from a thread of its own."""

    def __init__(self, logs: CloudWatchLogsClient) -> None:
        self._logs = logs
        self._lock = threading.Lock()
        self._streams: dict[str, _Stream] = {}
        self._done: list[_Stream] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._flush_forever, name="logs")
        self._thread.start()

    def open(self, container_id: str, stream_name: str) -> None:
        """A container runs. What it wrote before (never more than a moment) is kept."""
        with self._lock:
            self._streams.setdefault(container_id, _Stream("")).name = stream_name

    def write(self, container_id: str, source: str, data: bytes) -> None:
        """Bytes of its stdout or stderr."""
        with self._lock:
            stream = self._streams.setdefault(container_id, _Stream(""))
            *lines, rest = (stream.partial.get(source, b"") + data).split(b"\n")
            while len(rest) > LONGEST_LINE:
                lines.append(rest[:LONGEST_LINE])
                rest = rest[LONGEST_LINE:]
            stream.partial[source] = rest
            for line in lines:
                self._add(stream, line)

    def close(self, container_id: str) -> None:
        """It ended: unterminated lines go out as they are."""
        with self._lock:
            stream = self._streams.pop(container_id, None)
            if stream is not None and stream.name:
                for rest in stream.partial.values():
                    self._add(stream, rest)
                self._done.append(stream)

    def shut(self) -> None:
        """End the thread, flushing once more."""
        self._closing.set()
        self._thread.join()

    def _add(self, stream: _Stream, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r")
        if not text or stream.written > MOST_BYTES:
            return
        stream.written += len(line)
        if stream.written > MOST_BYTES:
            text = "(the local cloud keeps no more of this attempt's output here; the job volume has it all)"
        stream.events.append({"timestamp": int(time.time() * 1000), "message": text})

    def _flush_forever(self) -> None:
        known: set[str] = set()
        while True:
            closing = self._closing.wait(FLUSH_SECONDS)
            try:
                self._flush(known)
            except (BotoCoreError, ClientError):
                log.exception("log lines are lost")
            if closing:
                return

    def _flush(self, known: set[str]) -> None:
        with self._lock:
            streams = [stream for stream in (*self._done, *self._streams.values()) if stream.name]
            self._done = []
            batches = [(stream.name, stream.events) for stream in streams]
            for stream in streams:
                stream.events = []
        for name, events in batches:
            if name not in known:
                self._logs.create_log_stream(logGroupName=LOG_GROUP, logStreamName=name)
                known.add(name)
            for start in range(0, len(events), MOST_EVENTS):
                chunk = events[start : start + MOST_EVENTS]
                self._logs.put_log_events(logGroupName=LOG_GROUP, logStreamName=name, logEvents=chunk)
