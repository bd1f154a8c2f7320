"""A notice that comes from two sources, the metadata service and an event, is one; another one is another."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from perdure.contracts.protection import AttachRequest
from perdure.domain.jobs import Job
from perdure.domain.nodes import Node, NodeState, Notice, NoticeKind, as_announced
from worker_agent.node.interruption import Announced
from workflows.job_reports import hear_notice
from workflows.job_state import JobProgress, Stage

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def notice(name: str, seconds: float = 120, kind: NoticeKind = NoticeKind.INTERRUPTION) -> Notice:
    """Of an instance that goes in so many seconds."""
    deadline = NOW + timedelta(seconds=seconds) if kind is NoticeKind.INTERRUPTION else None
    return Notice(notice_id=name, kind=kind, instance_id="i-1", seen_at=NOW, deadline=deadline)


def test_an_agent_hears_an_announcement_once_whoever_tells_it() -> None:
    announced = Announced()
    assert announced.first_time(notice("event"))
    assert not announced.first_time(notice("metadata", 118.5))
    assert announced.first_time(notice("early", kind=NoticeKind.REBALANCE))
    assert not announced.first_time(notice("early again", kind=NoticeKind.REBALANCE))
    assert announced.first_time(notice("it stayed, and is taken back later", 600))


def test_a_jobs_workflow_hears_it_once_while_the_job_is_being_saved() -> None:
    progress = JobProgress(job=Job(job_id="job-1", created_at=NOW))
    request = AttachRequest(job_id="job-1", container_id="c", attempt=1, instance_id="i-1", zone="zone-a", asked_at=NOW)
    progress.accept(request, NOW)
    progress.stage = Stage.RUNNING
    assert hear_notice(progress, notice("event"), NOW)
    assert not hear_notice(progress, notice("metadata", 118.5), NOW)
    assert progress.notice == notice("event")
    assert [line.kind for line in progress.unrecorded].count("notice") == 1
    progress.final_settled = True  # and there is none, or it would not hold its container any more
    assert hear_notice(progress, notice("a second chance"), NOW)


def test_what_the_records_know_of_a_node_stays() -> None:
    node = Node(instance_id="i-1", zone="zone-a")
    assert as_announced(node, notice("early", kind=NoticeKind.REBALANCE)) == node
    noticed = as_announced(node, notice("event"))
    assert (noticed.state, noticed.notice) == (NodeState.NOTICED, notice("event"))
    assert as_announced(noticed, notice("metadata", 118.5)) == noticed
    gone = node.model_copy(update={"state": NodeState.GONE})
    assert as_announced(gone, notice("late")) == gone
