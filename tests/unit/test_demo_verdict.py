"""The demo's verdict and comparison: what must turn ok false, and what may differ."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from localcloud.demo.display import picture
from localcloud.demo.jobs import IN_A_JOB, demo_jobs
from localcloud.demo.references import Evidence, differences, first_difference, same_file, tokens
from localcloud.demo.stack_user import progress
from localcloud.demo.verdict import (
    CommittedCheckpoint,
    Kind,
    OutageFact,
    Outcome,
    PlannedReclaim,
    Sighting,
    judge,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLAN = (
    PlannedReclaim(Kind.SAME_ZONE, 0.2),
    PlannedReclaim(Kind.OTHER_ZONE, 0.4),
    PlannedReclaim(Kind.NO_NOTICE, 0.6),
)
TOKEN = frozenset({"0123456789abcdef"})


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def sighting(kind: Kind, epoch: int) -> Sighting:
    return Sighting(kind, "RUNNING", epoch, "a", TOKEN, 0.2 * epoch, gone_at=at(epoch * 60))


def outage(epoch: int, kind: str, restored_from: int | None, lost: float | None) -> OutageFact:
    return OutageFact(epoch, kind, 4.0, {"restored": 1.0}, restored_from, lost)


GOOD = Outcome(
    name="chain",
    job_id="j",
    batch_status="SUCCEEDED",
    exit_code=0,
    attempts=4,
    protections=3,
    zones=["a", "a", "b", "b"],
    tokens=TOKEN,
    sightings=[sighting(planned.kind, epoch) for epoch, planned in enumerate(PLAN, start=1)],
    checkpoints=[
        CommittedCheckpoint(1, 1, "periodic", at(30)),
        CommittedCheckpoint(1, 2, "final", at(59)),
        CommittedCheckpoint(2, 3, "final", at(119)),
        CommittedCheckpoint(3, 4, "periodic", at(150)),
        CommittedCheckpoint(3, 5, "periodic", at(165)),
        CommittedCheckpoint(4, 6, "periodic", at(170)),
    ],
    outages=[outage(1, "notice", 2, 0.0), outage(2, "notice", 3, 0.0), outage(3, "no notice", 5, 14.5)],
    differences=[],
)


def test_all_is_well() -> None:
    verdict = judge(PLAN, GOOD)
    assert verdict.problems == []
    assert verdict.ok
    assert verdict.as_json() == {
        "name": "chain",
        "id": "j",
        "attempts": 4,
        "protections": 3,
        "zones": ["a", "a", "b", "b"],
        "output_identical": True,
        "work_lost_seconds": 14.5,
        "outages": [
            {
                "kind": kind,
                "seconds": 4.0,
                "phases": {"restored": 1.0},
                "restored_from": number,
                "work_lost_seconds": lost,
            }
            for kind, number, lost in (("notice", 2, 0.0), ("notice", 3, 0.0), ("no notice", 5, 14.5))
        ],
    }


def with_sighting(place: int, **changes: object) -> Outcome:
    changed = list(GOOD.sightings)
    changed[place] = replace(changed[place], **changes)  # type: ignore[arg-type]
    return replace(GOOD, sightings=changed)


def with_outage(place: int, **changes: object) -> Outcome:
    changed = list(GOOD.outages)
    changed[place] = replace(changed[place], **changes)  # type: ignore[arg-type]
    return replace(GOOD, outages=changed)


BROKEN = [
    (replace(GOOD, differences=["stdout differs"]), "stdout differs"),
    (replace(GOOD, batch_status="FAILED", exit_code=1), "ended FAILED with exit code 1"),
    (replace(GOOD, exit_code=None), "exit code None"),
    (replace(GOOD, sightings=GOOD.sightings[:2]), "3 reclaims were planned, 2 hit"),
    (replace(GOOD, attempts=5), "5 attempts"),
    (replace(GOOD, protections=2), "survived 2 reclaims"),
    (replace(GOOD, zones=["a", "b", "b", "b"]), "(notice, same zone) took the job from a to b"),
    (replace(GOOD, zones=["a", "a", "a", "b"]), "(notice, other zone) took the job from a to a"),
    (with_sighting(0, batch_status="STARTING"), "while the job was STARTING"),
    (with_sighting(2, progress=1.0), "came while the job was"),
    (with_sighting(1, tokens=frozenset()), "was not seen before a reclaim"),
    (with_sighting(1, tokens=frozenset({"fedcba9876543210"})), "2 different tokens"),
    (replace(GOOD, tokens=frozenset()), "was not seen"),
    (replace(GOOD, outages=GOOD.outages[:2]), "there is no outage"),
    (with_outage(2, kind="notice"), "an outage with notice"),
    (with_outage(1, work_lost_seconds=None), "cost in work is unknown"),
    (replace(GOOD, checkpoints=[]), "no checkpoint was committed before"),
]


@pytest.mark.parametrize(("seen", "words"), BROKEN)
def test_whatever_does_not_hold_is_said(seen: Outcome, words: str) -> None:
    verdict = judge(PLAN, seen)
    assert not verdict.ok
    assert any(words in problem for problem in verdict.problems), verdict.problems


def test_a_checkpoint_deleted_behind_its_back_is_missed() -> None:
    verdict = judge(PLAN, with_outage(2, restored_from=4, work_lost_seconds=29.5))
    assert verdict.problems == [
        "checkpoint 5 was committed in time, but after the reclaim (no notice) the job went on from 4: "
        "29.5 s of work had to be done again"
    ]
    assert verdict.as_json()["output_identical"] is True


def test_a_final_checkpoint_that_was_not_used_is_missed() -> None:
    problems = judge(PLAN, with_outage(0, restored_from=1, work_lost_seconds=29.0)).problems
    assert len(problems) == 1 and "checkpoint 2 was committed in time" in problems[0]


def test_a_clean_start_is_missed() -> None:
    problems = judge(PLAN, with_outage(2, restored_from=None, work_lost_seconds=60.0)).problems
    assert any("the job started anew: 60.0 s" in problem for problem in problems)


def test_a_notice_without_a_final_checkpoint_is_missed() -> None:
    checkpoints = [each for each in GOOD.checkpoints if each.number != 2]
    problems = judge(PLAN, replace(with_outage(0, restored_from=1), checkpoints=checkpoints)).problems
    assert problems == ["no final checkpoint was committed on a reclaim (notice, same zone)"]


def test_a_checkpoint_that_came_after_the_death_counts_for_nothing() -> None:
    late = [*GOOD.checkpoints, CommittedCheckpoint(3, 9, "periodic", at(181))]
    assert judge(PLAN, replace(GOOD, checkpoints=late)).ok


# Comparison


def test_tokens_may_differ_and_nothing_else(tmp_path: Path) -> None:
    mine, other = tmp_path / "a", tmp_path / "b"
    mine.write_bytes(b"same")
    other.write_bytes(b"same")
    job = Evidence(b"[0123456789abcdef] started\n[0123456789abcdef] 1\n", b"", [mine])
    reference = Evidence(b"[fedcba9876543210] started\n[fedcba9876543210] 1\n", b"", [other])
    assert tokens(job.stdout) == TOKEN
    assert differences("chain", job, reference) == []
    lost = replace(job, stdout=b"[0123456789abcdef] started\n")
    twice = replace(job, stdout=job.stdout + b"[0123456789abcdef] 1\n")
    spoken = replace(job, stderr=b"oh\n")
    for changed, words in ((lost, "stdout of chain"), (twice, "line 3"), (spoken, "stderr of chain")):
        assert words in differences("chain", changed, reference)[0]
    mine.write_bytes(b"sane")
    assert "b of chain" in differences("chain", job, reference)[0]
    mine.unlink()
    assert "b of chain" in differences("chain", job, reference)[0]


@pytest.mark.parametrize(
    ("ours", "theirs", "line"), [(b"a\nb\n", b"a\nb\n", None), (b"a\n", b"a\nb\n", 2), (b"x\nb\n", b"a\nb\n", 1)]
)
def test_the_first_line_that_differs(ours: bytes, theirs: bytes, line: int | None) -> None:
    assert first_difference(ours, theirs) == line


HEADER = b"@HD\tVN:1.0\n@SQ\tSN:lambda\n"


@pytest.mark.parametrize(
    ("ours", "equal"),
    [
        (HEADER + b"@PG\tCL:here\nread1\nread2\n", True),
        (HEADER + b"read1\nread2\n", True),
        (HEADER + b"@PG\tCL:here\nread1\nread3\n", False),
        (HEADER + b"@PG\tCL:here\nread1\nread2\nread2\n", False),
        (HEADER + b"@PG\tCL:here\nread1\n", False),
        (b"@HD\tVN:1.0\n@PG\tCL:here\nread1\nread2\n", False),
        (HEADER + b"@PG\tCL:here\nread1\nread2\n@PG\tlate\n", False),
        (b"", False),
    ],
)
def test_every_byte_of_a_sam_file_but_its_pg_line(tmp_path: Path, ours: bytes, equal: bool) -> None:
    mine, other = tmp_path / "mine.sam", tmp_path / "lambda.sam"
    mine.write_bytes(ours)
    other.write_bytes(HEADER + b"@PG\tCL:there\nread1\nread2\n")
    assert same_file(mine, other) is equal


def test_pg_lines_count_in_other_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"@PG\tx\n")
    (tmp_path / "b").write_bytes(b"@PG\ty\n")
    assert not same_file(tmp_path / "a", tmp_path / "b")


# What is seen on the way


def test_progress_is_the_last_that_was_said() -> None:
    assert progress(b"") == 0
    said = b"[0123456789abcdef] progress 5/20\n[0123456789abcdef] progress 10/20 abc\n[0123456789abcdef] pro"
    assert progress(said) == 0.5


def test_each_job_meets_every_kind_of_reclaim() -> None:
    jobs = demo_jobs()
    for job in jobs:
        assert {planned.kind for planned in job.plan} == set(Kind)
        assert [planned.after for planned in job.plan] == sorted(planned.after for planned in job.plan)
        assert all(str(path).startswith(("/mnt/perdure/", "/srv/")) for path in job.outputs(IN_A_JOB))
    assert len({tuple(planned.kind for planned in job.plan) for job in jobs}) == len(jobs)


def test_a_life_as_one_line() -> None:
    page = {
        "attempts": [{"started_at": at(0).isoformat()}],
        "finished_at": at(56).isoformat(),
        "outages": [{"started_at": at(18).isoformat(), "ended_at": at(36).isoformat()}],
    }
    assert picture(page) == "━" * 18 + "·" * 18 + "━" * 20 + "  56 s, ··· still"
    assert picture({}) == ""
