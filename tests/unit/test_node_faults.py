"""A fault of the node (CPU, port, slot, disk, driver) neither counts against a checkpoint nor descends the ladder."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from perdure.contracts.protection import AttachReply, Verdict
from perdure.domain.errors import EcsAgentRuns, PerdureError, RestoreFailed, VolumeFailed
from perdure.domain.retries import RetryStrategy
from perdure.settings import AgentSettings
from worker_agent.container.protected_jobs import ContainerRecord, ProtectedJob, ProtectedJobs
from worker_agent.engine.explanations import explain
from worker_agent.node.ecs_agent import EcsAgent
from worker_agent.node.this_node import ThisNode
from worker_agent.start.preparing import Preparer

FAULTS = {
    "CPU": "Error (criu/cpu.c:1): cpu: CPU instruction capabilities do not match run time",
    "port": "Error (criu/sk-inet.c:1): inet: Can't bind inet socket (id 4): Address already in use",
    "disk": "Error (criu/files-reg.c:1): Can't write to /x: No space left on device",
    "CRIU": 'exec: "criu": executable file not found in $PATH',
}


async def _unheard(job: ProtectedJob, reason: str, level: str) -> None:
    """Nobody reads the job's timeline."""


def a_job(folder: Path, retry: RetryStrategy) -> tuple[Preparer, ProtectedJob]:
    node = ThisNode(AgentSettings(run_dir=folder / "run", state_dir=folder / "state"))
    jobs = ProtectedJobs(node)
    plan = AttachReply(verdict=Verdict.RESTORE, epoch=2, retry=retry, attempts_made=2)
    record = ContainerRecord(
        container_id="c0ffee",
        job_id="a-job",
        attempt=2,
        bundle=folder,
        runc_root="",
        rootfs=folder,
        lower_layers=[],
        plan=plan,
    )
    return Preparer(jobs, _unheard), jobs.add(record)


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_same_checkpoint_is_tried_once_more_and_then_none(tmp_path: Path, fault: str) -> None:
    """Where a start may not fail, the caller starts it clean beside its checkpoints, which stay."""
    known = explain(FAULTS[fault])
    assert known is not None and known.node_fault
    preparer, job = a_job(tmp_path, RetryStrategy(attempts=1))
    problem = RestoreFailed(FAULTS[fault], "restore", node_fault=True)
    preparer._fell(job, 3, problem)
    with pytest.raises(RestoreFailed) as raised:
        preparer._fell(job, 3, problem)
    assert raised.value.node_fault
    assert [(rung.number, rung.node_fault) for rung in job.record.rungs] == [(3, True), (3, True)]


@pytest.mark.parametrize("fault", FAULTS)
async def test_where_the_rules_retry_a_failed_start_another_node_is_tried_at_once(tmp_path: Path, fault: str) -> None:
    preparer, job = a_job(tmp_path, RetryStrategy(attempts=5))
    with pytest.raises(RestoreFailed):
        preparer._fell(job, 3, RestoreFailed(FAULTS[fault], "restore", node_fault=True))
    assert [rung.node_fault for rung in job.record.rungs] == [True]


@pytest.mark.parametrize("lacks", ["this node's CPU lacks avx512f", "the driver of the GPU is 535; 570 is needed"])
async def test_what_the_node_lacks_before_runc_is_even_called_is_not_tried_again(tmp_path: Path, lacks: str) -> None:
    """A CPU feature or a driver does not come with time."""
    preparer, job = a_job(tmp_path, RetryStrategy(attempts=1))
    with pytest.raises(RestoreFailed):
        preparer._fell(job, 3, RestoreFailed(lacks, "verify", node_fault=True))


async def test_a_checkpoints_own_fault_descends(tmp_path: Path) -> None:
    preparer, job = a_job(tmp_path, RetryStrategy(attempts=5))
    preparer._fell(job, 3, RestoreFailed("a wrong checksum", "verify"))
    assert [(rung.number, rung.node_fault) for rung in job.record.rungs] == [(3, False)]


async def test_what_was_killed_is_tried_again_and_then_an_older_one(tmp_path: Path) -> None:
    preparer, job = a_job(tmp_path, RetryStrategy(attempts=5))
    preparer._fell(job, 3, RestoreFailed("killed", "restore"), again=True)
    preparer._fell(job, 3, RestoreFailed("killed", "restore"))
    assert [(rung.node_fault, rung.again) for rung in job.record.rungs] == [(False, True), (False, False)]


async def test_a_full_disk_stops_no_job_that_runs(tmp_path: Path) -> None:
    """Its final checkpoint was committed, and then it was not handed over."""
    _, job = a_job(tmp_path, RetryStrategy(attempts=5))
    in_the_way = job.folder / "container.json.new"
    in_the_way.mkdir()
    with pytest.raises(OSError):
        job.note(holds=True)
    job.record = job.record.model_copy(update={"started_at": datetime.now(UTC)})
    job.note(ending=True)
    assert job.record.ending
    in_the_way.rmdir()
    job.note(holds=False)
    kept = ContainerRecord.model_validate_json((job.folder / "container.json").read_text())
    assert kept == job.record and kept.ending


async def test_an_ecs_agent_is_not_stopped_where_that_cannot_be_noted(tmp_path: Path) -> None:
    """Nobody would start it again, should the instance stay: the job stays frozen."""
    stopped = tmp_path / "stopped"
    (tmp_path / "state").symlink_to("nowhere")  # no folder can be made there, as on a full disk
    agent = EcsAgent(AgentSettings(state_dir=tmp_path / "state", ecs_stop=f"touch {stopped}"))
    with pytest.raises(EcsAgentRuns):
        await agent.stop()
    assert not stopped.exists()


def test_a_missing_slot_never_becomes_a_rung() -> None:
    """A volume that cannot be attached here ends the preparation before a checkpoint is looked at."""
    assert issubclass(VolumeFailed, PerdureError) and not issubclass(VolumeFailed, RestoreFailed)
