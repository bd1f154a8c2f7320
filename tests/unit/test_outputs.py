"""What a job printed: one log out of several streams."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError, EndpointConnectionError

from activities.output import EVENTS_AT_ONCE, Outputs
from perdure.contracts.outputs import LARGEST_OUTPUT, OutputStream, ReadOutput
from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.jobs import Attempt
from perdure.domain.outputs import undone_after

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def attempt(epoch: int, begun: float, restored_from: int | None = None, **more: Any) -> Attempt:
    return Attempt(
        epoch=epoch,
        attempt=epoch,
        instance_id=f"i-{epoch}",
        zone="us-east-1a",
        container_id=f"c{epoch}",
        accepted_at=at(begun - 1),
        restored_from=restored_from,
        **{"started_at": at(begun)} | more,
    )


def checkpoint(number: int, epoch: int, frozen: float, kind: CheckpointKind = CheckpointKind.PERIODIC) -> Checkpoint:
    return Checkpoint(
        number=number,
        kind=kind,
        epoch=epoch,
        frozen_at=at(frozen),
        committed_at=at(frozen + 5),
        phases={"frozen": 0.5},
    )


def test_after_a_final_checkpoint_every_line_counts() -> None:
    checkpoints = [checkpoint(1, 1, 10), checkpoint(2, 1, 20, CheckpointKind.FINAL)]
    assert undone_after([attempt(1, 0), attempt(2, 60, 2)], checkpoints) == {}


def test_after_a_death_without_notice_lines_since_the_checkpoint_are_undone() -> None:
    checkpoints = [checkpoint(1, 1, 10), checkpoint(2, 1, 20)]
    assert undone_after([attempt(1, 0), attempt(2, 60, 2)], checkpoints) == {1: at(20.5)}


def test_after_a_clean_start_nothing_before_counts() -> None:
    undone = undone_after([attempt(1, 0), attempt(2, 60, 1), attempt(3, 120)], [checkpoint(1, 1, 10)])
    assert undone == {1: at(-1), 2: at(59)}


def test_a_container_that_printed_nothing_new_is_undone_as_a_whole() -> None:
    """The third went on from a checkpoint of the first: what the second did in between is gone."""
    undone = undone_after([attempt(1, 0), attempt(2, 60, 1), attempt(3, 120, 1)], [checkpoint(1, 1, 10)])
    assert undone[1] == at(10.5)
    assert undone[2] <= at(60)


def test_a_ladder_below_a_final_checkpoint_undoes_what_that_had_kept() -> None:
    checkpoints = [checkpoint(1, 1, 10), checkpoint(2, 1, 20, CheckpointKind.FINAL)]
    assert undone_after([attempt(1, 0), attempt(2, 60, 2), attempt(3, 120, 1)], checkpoints)[1] == at(10.5)


def test_a_container_that_never_started_undoes_nothing() -> None:
    checkpoints = [checkpoint(1, 1, 10, CheckpointKind.FINAL)]
    assert undone_after([attempt(1, 0), attempt(2, 60, None, started_at=None)], checkpoints) == {}


class Streams:
    """CloudWatch Logs, as its reference says: pages go backwards, and the last one names itself."""

    def __init__(self, **streams: list[str] | Exception) -> None:
        self.streams = streams

    def get_log_events(self, **asked: Any) -> dict[str, Any]:
        assert not asked["startFromHead"]
        lines = self.streams[asked["logStreamName"]]
        if isinstance(lines, Exception):
            raise lines
        end = int(asked.get("nextToken", len(lines)))
        begin = max(0, end - asked["limit"])
        events = [{"timestamp": 1000 * number, "message": lines[number]} for number in range(begin, end)]
        return {"events": events, "nextBackwardToken": str(begin)}


def request(*names: str) -> ReadOutput:
    streams = [OutputStream(epoch=epoch, name=name) for epoch, name in enumerate(names, 1)]
    return ReadOutput(job_id="job", group="/aws/batch/job", streams=streams)


async def test_all_of_a_short_output_in_order() -> None:
    lines = [f"line {number}" for number in range(2 * EVENTS_AT_ONCE + 7)]
    found = await Outputs(Streams(a=lines, b=["more"])).read_output(request("a", "b"))
    assert [[line.text for line in one.lines] for one in found.streams] == [lines, ["more"]]
    assert not any(one.cut or one.failure for one in found.streams)


async def test_the_end_of_a_long_output() -> None:
    line = "x" * 999
    found = await Outputs(Streams(a=["first"] * 10, b=[line] * 500)).read_output(request("a", "b"))
    first, second = found.streams
    assert (len(first.lines), first.cut) == (10, False), "what is left goes to the one before"
    assert second.cut and len(second.lines) == LARGEST_OUTPUT // 1000
    assert sum(len(one.text) + 1 for part in found.streams for one in part.lines) <= LARGEST_OUTPUT


async def test_what_cannot_be_read_is_said() -> None:
    def refused(code: str) -> ClientError:
        return ClientError({"Error": {"Code": code, "Message": ""}}, "GetLogEvents")

    streams = Streams(
        a=refused("ResourceNotFoundException"),
        b=refused("AccessDeniedException"),
        c=EndpointConnectionError(endpoint_url="http://nowhere"),
        d=["there"],
    )
    found = await Outputs(streams).read_output(request("a", "b", "c", "d"))
    words = [one.failure for one in found.streams]
    assert "no stream a in /aws/batch/job" in words[0]
    assert "allow its role `logs:GetLogEvents`" in words[1]
    assert "did not answer" in words[2]
    assert [line.text for line in found.streams[3].lines] == ["there"]
