"""What a job printed, read from the CloudWatch log stream of each of its containers. Stub only.

It travels inside a Temporal message, whose payload may have 2 MB, so its size is bounded where it is read.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import Field
from temporalio import activity

from perdure.domain.values import Frozen

LARGEST_OUTPUT = 256 << 10
"""Bytes of text that are read: the end of the output."""


class OutputStream(Frozen):
    """The log stream of one container."""

    epoch: int
    name: str


class ReadOutput(Frozen):
    """Read the end of what a job printed. `streams`: oldest first. Read-only: safe to be asked again."""

    job_id: str
    group: str
    streams: list[OutputStream]


class OutputLine(Frozen):
    """One event of a log stream. `at`: when the instance took it from the container, UTC."""

    at: datetime
    text: str


class StreamOutput(Frozen):
    """The end of what one container printed. `cut`: there is more before. `failure`: why nothing could be read."""

    epoch: int
    lines: list[OutputLine] = Field(default_factory=list)
    cut: bool = False
    failure: str = ""


class JobOutput(Frozen):
    """By container, oldest first; or why nothing was read (`failure`, a sentence for people)."""

    streams: list[StreamOutput] = Field(default_factory=list)
    failure: str = ""


class OutputActivities:
    """What the control worker reads from CloudWatch Logs."""

    @activity.defn(name="read_output")
    async def read_output(self, request: ReadOutput) -> JobOutput:
        """At most LARGEST_OUTPUT bytes, of the newest streams first. Never fails: what is missing is said."""
        raise NotImplementedError
