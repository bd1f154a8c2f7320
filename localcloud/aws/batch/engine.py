"""AWS Batch itself: from submission to the last attempt's end.

    RUNNABLE → STARTING → RUNNING → SUCCEEDED | FAILED
        ↑___________________|         a failed attempt that is to be tried again goes back to RUNNABLE

An attempt counts once it runs; its number is repeated when its container, or its host, dies before that. A time-out is
per attempt and, like TerminateJob, final. Source: AWS Batch user guide, "Job states", "Automated job retries", "Job
timeouts"; the wording of reasons: what clients look for.
"""

from __future__ import annotations

import logging
import secrets
import threading
import uuid
from collections.abc import Callable
from typing import Any

from localcloud.aws.batch.environment import container_environment
from localcloud.aws.batch.jobs import TERMINAL, WAITING, Attempt, Job, now_ms
from localcloud.aws.batch.placement import Need, Room, place
from localcloud.aws.batch.retry import Ending
from localcloud.aws.clock import Clock
from localcloud.aws.cloud_config import ACCOUNT, CloudConfig
from localcloud.aws.fleet import GONE, LAUNCHING, NOTICED, READY, Fleet
from localcloud.aws.logs_sink import LogSink
from localcloud.node_link import (
    Exited,
    NodeCommand,
    NodeEvent,
    Output,
    RunTask,
    Started,
    StartFailed,
    StopTask,
    Task,
)

log = logging.getLogger(__name__)

CONTAINER_ENDED = "Essential container in task exited"
START_FAILED = "Task failed to start"
TIMED_OUT = "Job attempt duration exceeded timeout"
TOO_LARGE = "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - no instance type here has that many vCPUs or that much memory"


class Engine:
    """All jobs of the stack. Public methods take the lock themselves; what goes to nodes is sent without it."""

    def __init__(
        self,
        lock: threading.RLock,
        clock: Clock,
        config: CloudConfig,
        endpoint_url: str,
        cluster_arn: str,
        fleet: Fleet,
        logs: LogSink,
    ) -> None:
        self._lock, self._clock, self._config = lock, clock, config
        self._endpoint_url, self._cluster = endpoint_url, cluster_arn.rsplit("/", 1)[-1]
        self._fleet, self._logs = fleet, logs
        self._jobs: dict[str, Job] = {}
        self._by_container: dict[str, Job] = {}
        self.capacity = frozenset(config.zones)
        """Zones in which there are Spot instances to be had."""
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._placing = threading.Thread(target=self._place_forever, name="placement")

    def start(self) -> None:
        """Begin to place jobs."""
        self._placing.start()

    def close(self) -> None:
        """Stop placing jobs; what runs is the fleet's to end."""
        self._closing.set()
        self._changed.set()
        self._placing.join()

    def submit(self, job: Job) -> None:
        """Take a job."""
        with self._lock:
            self._jobs[job.job_id] = job
        self._changed.set()

    def job(self, job_id: str) -> Job | None:
        """One job. Read it under the lock."""
        with self._lock:
            return self._jobs.get(job_id)

    def jobs(self) -> list[Job]:
        """All jobs, oldest first."""
        with self._lock:
            return list(self._jobs.values())

    def describe(self, job_ids: list[str]) -> list[dict[str, Any]]:
        """DescribeJobs: unknown ids are left out."""
        with self._lock:
            return [self._jobs[job_id].describe() for job_id in job_ids if job_id in self._jobs]

    def summaries(self, wanted: Callable[[Job], bool]) -> list[dict[str, Any]]:
        """ListJobs: those that are wanted, oldest first."""
        with self._lock:
            return [job.summary() for job in self._jobs.values() if wanted(job)]

    def cancel(self, job_id: str, reason: str) -> None:
        """CancelJob: a job that has not started fails; any other is left alone."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is not None and job.status in WAITING:
                job.cancelled = True
                self._finish(job, "FAILED", reason)

    def terminate(self, job_id: str, reason: str) -> None:
        """TerminateJob: stop its container, then it has FAILED for `reason`. Finished and unknown jobs are ignored."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None or job.status in TERMINAL:
                return
            job.terminated = True
            if job.current is None:
                self._finish(job, "FAILED", reason)
        self._stop(job, reason)

    def containers_on(self, instance_id: str) -> list[str]:
        """Ids of jobs with a container there, starting ones included."""
        with self._lock:
            return [job.job_id for job in self._jobs.values() if job.current and job.current.instance_id == instance_id]

    def limit_capacity(self, zones: list[str], pinned_jobs: list[str]) -> None:
        """Leave Spot capacity only in `zones`. `pinned_jobs` go there next whatever is said for others later; with all
        zones given they may go anywhere again."""
        with self._lock:
            self.capacity = frozenset(zones)
            for job_id in pinned_jobs:
                self._jobs[job_id].zone = zones[0] if len(zones) == 1 else None
        self._changed.set()

    def nodes_changed(self) -> None:
        """A node came or went."""
        self._changed.set()

    def host_died(self, instance_id: str) -> None:
        """Batch hears of a host's end: its containers have no exit code."""
        with self._lock:
            lost = [self._jobs[job_id] for job_id in self.containers_on(instance_id)]
            for job in lost:
                self._end_attempt(job, Ending(status_reason=f"Host EC2 (instance {instance_id}) terminated."))
        self._changed.set()

    def node_event(self, instance_id: str, event: NodeEvent) -> None:
        """News of a container. News of one that Batch no longer knows is dropped."""
        if isinstance(event, Output):
            self._logs.write(event.container_id, event.stream, event.data)
        elif isinstance(event, Started):
            self._started(event)
        elif isinstance(event, StartFailed):
            self._ended(event.container_id, Ending(reason=event.reason, status_reason=START_FAILED))
        elif isinstance(event, Exited):
            self._ended(event.container_id, Ending(event.exit_code, event.reason, CONTAINER_ENDED))

    def _started(self, event: Started) -> None:
        with self._lock:
            job = self._by_container.get(event.container_id)
            if job is None or job.current is None or job.current.container_id != event.container_id:
                return
            job.current.started_at = job.started_at = now_ms()
            job.status, job.status_reason = "RUNNING", None
            self._logs.open(event.container_id, job.current.log_stream)
        if job.timeout_seconds is not None:
            self._clock.after(job.timeout_seconds, lambda: self._time_out(job, event.container_id))

    def _time_out(self, job: Job, container_id: str) -> None:
        with self._lock:
            if job.current is None or job.current.container_id != container_id:
                return
        self._stop(job, TIMED_OUT)

    def _stop(self, job: Job, reason: str) -> None:
        with self._lock:
            attempt = job.current
            if attempt is None:
                return
            job.end_reason = job.end_reason or reason
            command = StopTask(
                container_id=attempt.container_id, grace_seconds=self._config.timing.container_stop_timeout
            )
        self._fleet.send(attempt.instance_id, command)

    def _ended(self, container_id: str, ending: Ending) -> None:
        with self._lock:
            job = self._by_container.get(container_id)
            if job is not None and job.current is not None and job.current.container_id == container_id:
                self._end_attempt(job, ending)
        self._changed.set()

    def _end_attempt(self, job: Job, ending: Ending) -> None:
        attempt = job.current
        assert attempt is not None
        attempt.ending, attempt.stopped_at = ending, now_ms()
        if (node := self._fleet.node(attempt.instance_id)) is not None:
            node.imds.remove_task(attempt.container_id)
        del self._by_container[attempt.container_id]
        self._logs.close(attempt.container_id)
        log.info("%s attempt %d ended: %s", job.job_id, attempt.number, ending)
        if job.end_reason is not None:
            self._finish(job, "FAILED", job.end_reason)
        elif ending.exit_code == 0:
            self._finish(job, "SUCCEEDED", ending.status_reason)
        elif job.strategy.retries(ending) and max(job.counted, job.failed_starts) < job.strategy.attempts:
            job.status, job.status_reason, job.started_at = "RUNNABLE", ending.status_reason, None
        else:
            self._finish(job, "FAILED", ending.status_reason)

    def _finish(self, job: Job, status: str, reason: str | None) -> None:
        job.status, job.status_reason, job.stopped_at = status, reason, now_ms()

    def _place_forever(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._closing.is_set():
                return
            try:
                self._place()
            except Exception:
                log.exception("jobs could not be placed")
                self._clock.after(self._config.timing.launch_retry, self._changed.set)

    def _place(self) -> None:
        with self._lock:
            plan = place(self._needs(), self._rooms(), self._config.shape, self._launchable_vcpus())
            for job_id in plan.impossible:
                self._jobs[job_id].status_reason = TOO_LARGE
            orders = [self._start(self._jobs[job_id], instance_id) for job_id, instance_id in plan.starts]
        for instance_id, command in orders:
            self._fleet.send(instance_id, command)
        for zone, shape in plan.launches:
            self._fleet.launch(zone, shape)

    def _needs(self) -> list[Need]:
        return [
            Need(job.job_id, job.plan.vcpus, job.plan.memory_mib, frozenset({job.zone}) if job.zone else self.capacity)
            for job in self._jobs.values()
            if job.status == "RUNNABLE"
        ]

    def _rooms(self) -> list[Room]:
        usable = {READY, LAUNCHING} | ({NOTICED} if self._config.place_on_noticed else set())
        rooms = []
        for node in self._fleet.nodes():
            if node.state in usable:
                there = [self._jobs[job_id].plan for job_id in self.containers_on(node.instance_id)]
                vcpus = node.shape.vcpus - sum(plan.vcpus for plan in there)
                memory = node.shape.memory_mib - sum(plan.memory_mib for plan in there)
                rooms.append(Room(node.instance_id, node.zone, vcpus, memory, ready=node.state != LAUNCHING))
        return rooms

    def _launchable_vcpus(self) -> float:
        if not self._fleet.may_launch():
            return 0.0
        return self._config.max_vcpus - sum(node.shape.vcpus for node in self._fleet.nodes() if node.state != GONE)

    def _start(self, job: Job, instance_id: str) -> tuple[str, NodeCommand]:
        node = self._fleet.node(instance_id)
        assert node is not None
        task_id = uuid.uuid4().hex
        attempt = Attempt(
            number=job.counted + 1,
            instance_id=instance_id,
            zone=node.zone,
            container_id=secrets.token_hex(32),
            task_arn=f"arn:aws:ecs:{self._config.region}:{ACCOUNT}:task/{self._cluster}/{task_id}",
            container_instance_arn=node.container_instance_arn,
            log_stream=f"{job.definition_arn.rsplit('/', 1)[-1].split(':')[0]}/default/{task_id}",
        )
        job.attempts.append(attempt)
        job.status = "STARTING"
        self._by_container[attempt.container_id] = job
        task = Task(
            container_id=attempt.container_id,
            job_id=job.job_id,
            attempt=attempt.number,
            command=job.plan.command,
            environment=container_environment(job, attempt, node, self._endpoint_url, self._cluster),
            vcpus=job.plan.vcpus,
            memory_mib=job.plan.memory_mib,
            mounts=job.plan.mounts,
            image=job.plan.image,
            user=job.plan.user,
            privileged=job.plan.privileged,
            options=job.plan.options,
            start_timeout_seconds=self._config.timing.container_start_timeout,
        )
        return instance_id, RunTask(task=task)
