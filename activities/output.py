"""What jobs printed, from CloudWatch Logs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from temporalio import activity

from activities import aws
from perdure.contracts.outputs import (
    LARGEST_OUTPUT,
    JobOutput,
    OutputActivities,
    OutputLine,
    OutputStream,
    ReadOutput,
    StreamOutput,
)

EVENTS_AT_ONCE = 1000
_REFUSED = {"AccessDeniedException", "AccessDenied", "UnrecognizedClientException"}


class Outputs(OutputActivities):
    """Reads log streams; changes nothing there. Needs `logs:GetLogEvents`."""

    def __init__(self, client: Any = None) -> None:
        self._logs = client or aws.client("logs")

    @activity.defn(name="read_output")
    async def read_output(self, request: ReadOutput) -> JobOutput:
        """At most LARGEST_OUTPUT bytes, of the newest streams first. Never fails: what is missing is said."""
        left, found = LARGEST_OUTPUT, list[StreamOutput]()
        for stream in reversed(request.streams):
            try:
                one = await asyncio.to_thread(self._end_of, request.group, stream, left)
            except (BotoCoreError, ClientError) as problem:
                one = StreamOutput(epoch=stream.epoch, failure=_in_words(problem, request.group, stream))
            left -= sum(_size(line) for line in one.lines)
            found.append(one)
        return JobOutput(streams=found[::-1])

    def _end_of(self, group: str, stream: OutputStream, most: int) -> StreamOutput:
        """The newest lines that fit into `most` bytes. Blocks. CloudWatch's pages go backwards; the last one names
        itself as the next: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_GetLogEvents.html"""
        asked: dict[str, Any] = {"logGroupName": group, "logStreamName": stream.name, "limit": EVENTS_AT_ONCE}
        lines: list[OutputLine] = []
        token = None
        while most > 0:
            if token:
                asked["nextToken"] = token
            page = self._logs.get_log_events(**asked, startFromHead=False)
            for event in reversed(page["events"]):
                line = OutputLine(at=datetime.fromtimestamp(event["timestamp"] / 1000, UTC), text=event["message"])
                most -= _size(line)
                if most < 0:
                    return StreamOutput(epoch=stream.epoch, lines=lines[::-1], cut=True)
                lines.append(line)
            if page["nextBackwardToken"] == token:
                return StreamOutput(epoch=stream.epoch, lines=lines[::-1])
            token = page["nextBackwardToken"]
        return StreamOutput(epoch=stream.epoch, lines=lines[::-1], cut=True)


def _size(line: OutputLine) -> int:
    return len(line.text.encode()) + 1


def _in_words(problem: Exception, group: str, stream: OutputStream) -> str:
    if not isinstance(problem, ClientError):
        return f"CloudWatch Logs did not answer: {problem}"
    code = aws.error_code(problem)
    if code == "ResourceNotFoundException":
        return f"CloudWatch Logs has no stream {stream.name} in {group}: it has printed nothing, or that is deleted."
    if code in _REFUSED:
        return f"The control worker may not read {group}: allow its role `logs:GetLogEvents`."
    return f"CloudWatch Logs refused it: {code}"
