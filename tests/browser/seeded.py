"""Records to look at: some nodes, live and ended, jobs on them, their volumes, tokens, and a changed configuration."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from perdure.domain.access import Role
from perdure.domain.configuration import CheckpointConfiguration, LogConfiguration, SystemConfiguration
from perdure.domain.jobs import Attempt, Job, JobState
from perdure.domain.nodes import Node, NodeState, Notice, NoticeKind
from perdure.domain.volumes import VolumeLife
from perdure.records.access.tokens import create_token, revoke_token
from perdure.records.costs.prices import save_storage
from perdure.records.jobs.jobs import record_job
from perdure.records.nodes.nodes import record_node
from perdure.records.schema.database import writing
from tests.browser.serving import Serving
from tests.browser.stories import lose_two

ENDED, LIVE, NOTICED = "i-0aaaaaaaaaaaaaaa1", "i-0bbbbbbbbbbbbbbb2", "i-0ccccccccccccccc3"
ZONE = "us-east-1a"
RUNNING, FAILED, DONE = "job-running", "job-failed", "job-done"


def fill(server: Serving) -> None:
    """Everything, once."""
    now = datetime.now(UTC).replace(microsecond=0)
    with writing(server.engine) as session:
        for node in _nodes(now):
            record_node(session, node)
        for job in _jobs(now):
            record_job(session, job, [], 1)
        save_storage(session, "us-east-1", {"gp3": 80_000, "snapshot": 50_000}, at=now)
        for name, role, areas, days in (
            ("nightly report", Role.VIEWER, ["jobs", "report"], 90),
            ("deploy", Role.ADMIN, [], 5),
            ("old script", Role.ADMIN, [], 30),
        ):
            life = timedelta(days=days)
            token, _ = create_token(session, name=name, role=role, areas=areas, at=now, by="ada", life=life)
        revoke_token(session, token.number, at=now, by="grace")
    lose_two(server.engine, now)
    first = SystemConfiguration(checkpoint=CheckpointConfiguration(keep=3, interval_seconds=1800))
    server.configure(first, by="ada")
    server.configure(first.model_copy(update={"log": LogConfiguration(level="debug")}), by="grace")


def _nodes(now: datetime) -> list[Node]:
    def node(instance_id: str, zone: str, state: NodeState, hours: float, **more: object) -> Node:
        seen = now - timedelta(hours=hours)
        given = {
            "instance_id": instance_id,
            "zone": zone,
            "instance_type": "m6i.2xlarge",
            "state": state,
            "agent_version": "1.0.0",
            "first_seen_at": seen,
            "launched_at": seen,
            "changed_at": now,
            "pay_type": "spot",
            "region": "us-east-1",
            "host_name": f"ip-10-0-0-{len(zone)}",
            "ips": ["10.0.0.7"],
            "arch": "x86_64",
            "vcpus": 8,
            "memory_mib": 32768,
            "cpu_model": "Xeon Platinum 8375C",
            "cpu_vendor": "Intel",
        }
        return Node.model_validate(given | more)

    notice = Notice(
        notice_id="n-1",
        kind=NoticeKind.INTERRUPTION,
        instance_id=NOTICED,
        seen_at=now - timedelta(seconds=20),
        deadline=now + timedelta(seconds=100),
    )
    ended_at = now - timedelta(hours=2)
    return [
        node(ENDED, "us-east-1a", NodeState.GONE, 9, ended_at=ended_at, ended_by="aws"),
        node(LIVE, "us-east-1b", NodeState.READY, 2),
        node(NOTICED, "us-east-1c", NodeState.NOTICED, 5, notice=notice),
    ]


def _jobs(now: datetime) -> list[Job]:
    def attempt(epoch: int, node: str, zone: str, hours: float, ended: float | None = None) -> Attempt:
        began = now - timedelta(hours=hours)
        return Attempt(
            epoch=epoch,
            attempt=epoch,
            instance_id=node,
            zone=zone,
            container_id=f"c{epoch}",
            accepted_at=began,
            started_at=began + timedelta(seconds=20),
            restored_from=2 if epoch > 1 else None,
            ended_at=None if ended is None else now - timedelta(hours=ended),
            end=None if ended is None else "handed over",
        )

    def volume(number: int, zone: str, hours: float, gone: bool = False) -> VolumeLife:
        return VolumeLife(
            volume_id=f"vol-0{number:016x}",
            zone=zone,
            volume_type="gp3",
            size_gib=100,
            created_at=now - timedelta(hours=hours),
            deleted_at=now if gone else None,
        )

    def job(job_id: str, state: JobState, attempts: list[Attempt], volumes: list[VolumeLife], ended: bool) -> Job:
        return Job(
            job_id=job_id,
            name=job_id.removeprefix("job-") + "-alignment",
            queue="spot",
            state=state,
            created_at=attempts[0].accepted_at,
            changed_at=now,
            finished_at=now - timedelta(hours=1) if ended else None,
            epoch=attempts[-1].epoch,
            vcpus=4,
            memory_mib=16384,
            attempts=attempts,
            volumes=volumes,
            volume_id=volumes[-1].volume_id,
            volume_zone=volumes[-1].zone,
        )

    moved = [attempt(1, ENDED, "us-east-1a", 8, 2), attempt(2, LIVE, "us-east-1b", 1.9)]
    return [
        job(RUNNING, JobState.RUNNING, moved, [volume(1, "us-east-1a", 8, True), volume(2, "us-east-1b", 1.9)], False),
        job(FAILED, JobState.FAILED, [attempt(1, NOTICED, "us-east-1c", 4, 1)], [volume(3, "us-east-1c", 4)], True),
        job(
            DONE, JobState.SUCCEEDED, [attempt(1, ENDED, "us-east-1a", 7, 3)], [volume(4, "us-east-1a", 7, True)], True
        ),
    ]
