"""The reconciler's duties: the records beside AWS's word, and a signal where they differ.

Whom to ask about stands in the records. A page is a page of them; AWS is asked about all of it in few calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Engine
from temporalio import activity
from temporalio.client import Client

from activities.batch import BatchLookups
from activities.instances import InstanceLookups
from activities.signals import tell_job, tell_node
from activities.unseen_jobs import UnseenJobs
from perdure.contracts.protection import Doubt
from perdure.contracts.reconciling import Reconcile, Reconciled, ReconcilingActivities
from perdure.domain.nodes import InstanceState, Node, as_seen
from perdure.domain.values import format_duration
from perdure.records.jobs.unseen_jobs import quiet_unseen
from perdure.records.jobs.watched_jobs import WatchedJob, jobs_on, quiet_jobs
from perdure.records.nodes.open_nodes import open_nodes
from perdure.records.schema.database import reading

PAGE = 1000
"""Rows of the records that are looked at together."""
UNSEEN_PAGE = 100
"""The same of jobs that no agent has told of: a page may start a workflow for each."""
QUIET = timedelta(minutes=15)
"""A job of which nothing was heard for so long is asked about."""
GRACE = timedelta(minutes=5)
"""A checkpoint is missed when nothing was heard for two intervals and this: its dump, and the report's way."""
SIGNALS_AT_ONCE = 20
PLACED = {"STARTING", "RUNNING"}
"""What Batch calls a job that has a container."""


class Reconciler(ReconcilingActivities):
    """Reads the records and AWS, and signals. Changes nothing in either, but for jobs that have no workflow."""

    def __init__(self, engine: Engine, client: Client, instances: InstanceLookups, batch: BatchLookups) -> None:
        self._engine = engine
        self._client = client
        self._instances = instances
        self._batch = batch
        self._unseen = UnseenJobs(engine, client, batch)

    @activity.defn(name="reconcile_instances")
    async def reconcile_instances(self, request: Reconcile) -> Reconciled:
        """Jobs hear first: a node that is recorded as gone is not looked at again."""
        looked_at, told, after = 0, 0, ""
        while nodes := await asyncio.to_thread(self._open_nodes, after):
            activity.heartbeat(after)
            found = await self._instances.states([node.instance_id for node in nodes])
            changed = [node for node in nodes if as_seen(node, found[node.instance_id], request.now) != node]
            gone = [node.instance_id for node in changed if found[node.instance_id].gone]
            jobs = await asyncio.to_thread(self._jobs_on, gone)
            reason = "The instance is gone: whether there is a newer checkpoint is not known yet."
            told += await self._together(self._doubt(job, reason) for job in jobs)
            told += await self._together(self._seen(node, found[node.instance_id]) for node in changed)
            looked_at, after = looked_at + len(nodes), nodes[-1].instance_id
        return Reconciled(looked_at=looked_at, told=told)

    @activity.defn(name="reconcile_jobs")
    async def reconcile_jobs(self, request: Reconcile) -> Reconciled:
        """A job that Batch does not know any more is over, too. Those of which no agent has told come first: an event
        about them may have been lost."""
        looked_at, told, after = await self._look_at_unseen(request.now - QUIET), 0, ""
        while jobs := await asyncio.to_thread(self._quiet_jobs, request.now - QUIET, after):
            activity.heartbeat(after)
            statuses = await self._batch.statuses([job.job_id for job in jobs])
            reasons = {job: _why_doubt(job, statuses.get(job.job_id), request.now) for job in jobs}
            told += await self._together(self._doubt(job, reason) for job, reason in reasons.items() if reason)
            looked_at, after = looked_at + len(jobs), jobs[-1].job_id
        return Reconciled(looked_at=looked_at, told=told)

    async def _look_at_unseen(self, before: datetime) -> int:
        looked_at, after = 0, ""
        while job_ids := await asyncio.to_thread(self._quiet_unseen, before, after):
            activity.heartbeat(after)
            looked_at += await self._unseen.look(job_ids, known=True)
            after = job_ids[-1]
        return looked_at

    def _quiet_unseen(self, before: datetime, after: str) -> list[str]:
        with reading(self._engine) as session:
            return quiet_unseen(session, before, after, UNSEEN_PAGE)

    def _open_nodes(self, after: str) -> list[Node]:
        with reading(self._engine) as session:
            return open_nodes(session, after, PAGE)

    def _jobs_on(self, instance_ids: Sequence[str]) -> list[WatchedJob]:
        with reading(self._engine) as session:
            return jobs_on(session, instance_ids)

    def _quiet_jobs(self, before: datetime, after: str) -> list[WatchedJob]:
        with reading(self._engine) as session:
            return quiet_jobs(session, before, after, PAGE)

    async def _together(self, signals: Iterable[Awaitable[None]]) -> int:
        """Send them, some at once; how many there were. Raises RPCError when Temporal refuses."""
        limit = asyncio.Semaphore(SIGNALS_AT_ONCE)

        async def send(signal: Awaitable[None]) -> None:
            async with limit:
                await signal

        return len(await asyncio.gather(*map(send, signals)))

    async def _doubt(self, job: WatchedJob, reason: str) -> None:
        await tell_job(self._client, job.job_id, "doubted", Doubt(instance_id=job.instance_id, reason=reason))

    async def _seen(self, node: Node, found: InstanceState) -> None:
        summary = f"instance {node.instance_id} in {node.zone}"
        await tell_node(self._client, node.instance_id, node, "instance_seen", found, summary)


def _why_doubt(job: WatchedJob, status: str | None, now: datetime) -> str:
    """Why its container may be gone, in words; empty: no reason."""
    if status not in PLACED:
        said = f"calls it {status}" if status else "does not know it"
        return f"The job should be running on {job.instance_id}, but AWS Batch {said}."
    silent = now - job.changed_at
    if job.interval_seconds and silent > timedelta(seconds=2 * job.interval_seconds) + GRACE:
        heard = format_duration(round(silent.total_seconds()))
        return f"Nothing was heard of {job.instance_id} for {heard}: whether there are checkpoints is not known."
    return ""
