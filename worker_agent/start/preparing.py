"""Making a container ready by its plan: the volume mounted, then a clean start or the ladder of restores (promise 5).

    the newest checkpoint → the one before → … → a clean start on clean files

Each rung that does not hold is recorded with its reason, and with whose fault it was. What is surely this node's fault
never descends the ladder: below it all checkpoints go. Everything else does, at once: an older checkpoint is worth more
than the question whose fault the newest one's failure was.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from perdure.contracts.protection import AttachReply, RestoreRung, Verdict
from perdure.contracts.runtime import RuntimeAction, RuntimeReply
from perdure.domain.configuration import JobVolumeConfiguration
from perdure.domain.errors import (
    CommandFailed,
    DeviceNumberTaken,
    ImageInvalid,
    JobRootBusy,
    PerdureError,
    RestoreFailed,
    VolumeFailed,
)
from perdure.domain.outages import CHECK_STEP
from perdure.domain.retries import HandOver
from worker_agent import engine
from worker_agent.container import stored_job
from worker_agent.container.bundle import Bundle, edit_config
from worker_agent.container.image import layers_for, read_image
from worker_agent.container.mounts import check_same, make_volumes
from worker_agent.container.network import Ports, choose_address, make_network, remove_network
from worker_agent.container.protected_jobs import ProtectedJob, ProtectedJobs
from worker_agent.node.volumes import mount_volume
from worker_agent.rehearse.remains import tidy
from worker_agent.start.planning import retries_failed_start

T = TypeVar("T")
log = structlog.get_logger()

GAVE_UP = r"`runc restore` ended with status [1-9]"
"""The runtime's words for a restore that runc itself ended: not one that was killed, or that could not be begun."""
_BUSY_TRIES = 5
_BETWEEN_TRIES = 2.0
_NUMBER_TRIES = 3
"""A device number may be taken for a moment only: by a container that starts, or by what an earlier try left."""
_CHECK_SECONDS = 30.0
_TRIES_ON_A_FAULTY_NODE = 2
"""How often one checkpoint is restored on a node that is to blame, where the start may not fail: a port that is taken
or a CRIU that was killed may be a matter of the moment."""
_LONGEST_REASON = 2000
"""Characters of a rung's reason."""
_PREDECESSOR = 60.0
"""Seconds in which an earlier container of the same job on this node must have let go of the job root."""


class Preparer:
    """Turns plans into orders for the runtime. Errors of the engine and of volumes pass through to the caller, who
    undoes what was done."""

    def __init__(self, jobs: ProtectedJobs, remark: Callable[[ProtectedJob, str, str], Awaitable[None]]) -> None:
        """`remark` puts a sentence and its level on the job's timeline."""
        self._jobs = jobs
        self._remark = remark
        self.ports = Ports()
        """Released by whoever hears that a restore is over."""

    async def prepare(self, job: ProtectedJob, bundle: Bundle) -> RuntimeReply:
        """The first order for a container that has a plan: CREATE or RESTORE. Safe to be asked again."""
        plan = _plan(job)
        job.rules = await asyncio.to_thread(bundle.rules, _volume_settings(plan))
        await self._await_predecessors(job)
        if plan.volume_id is None and plan.store is None:
            raise VolumeFailed(f"the plan for {bundle.job_id} names neither a job volume nor a store")
        job.hold()
        if plan.volume_id is not None:
            phases = await self._mount(job, plan, plan.volume_id)
        else:
            phases = {"attached": sum((await stored_job.mount_root(job)).values())}
        await asyncio.to_thread(engine.ensure_layout, job.job_root)
        await asyncio.to_thread(tidy, job.job_root, job.record.container_id)  # of a node that died in a rehearsal
        job.note(phases={**job.record.phases, **phases})
        if plan.store is not None:
            await stored_job.claim(job, fresh=plan.verdict is Verdict.FRESH)
        if plan.verdict is Verdict.RESTORE:
            return await self._next_rung(job, bundle)
        return await self._fresh(job, bundle)

    async def _mount(self, job: ProtectedJob, plan: AttachReply, volume_id: str) -> dict[str, float]:
        """The job volume, and people hear at once if its last instance did not let go of it as it should. Seconds."""
        fresh, forced = plan.verdict is Verdict.FRESH, plan.forced_volume
        mounted = await mount_volume(volume_id, job.job_root, may_format=fresh, forced=forced, cold=plan.cold_volume)
        if mounted.remark:
            await self._remark(job, mounted.remark, "warning" if forced or fresh else "info")
        checked = {CHECK_STEP: mounted.checked} if mounted.checked else {}
        return {"attached": mounted.attached + mounted.mounted, **checked}

    async def _await_predecessors(self, job: ProtectedJob) -> None:
        """Containers of the same job that ended on this node a moment ago still hold the job root."""
        for other in self._jobs:
            if other is not job and other.record.job_id == job.record.job_id:
                try:
                    await asyncio.wait_for(other.released.wait(), _PREDECESSOR)
                except TimeoutError:
                    raise JobRootBusy(f"an earlier container of {job.record.job_id} still lives here") from None

    async def _fresh(self, job: ProtectedJob, bundle: Bundle) -> RuntimeReply:
        if (overlay := job.record.engines_overlay) is not None:
            image = await asyncio.to_thread(read_image, job.record.container_id, overlay)
            job.on_layers(list(overlay.lower), image, older=False)
        phases = await self._patiently(partial(engine.prepare_fresh, job.container, epoch=job.epoch))
        await asyncio.to_thread(make_volumes, job.rules, job.job_root, fresh=True)
        job.mark_restoring(None)
        job.manifest = None
        own = job.settings.own_network and not bundle.own_network()
        taken = [other.record.surroundings.address for other in self._jobs]
        address = choose_address(job.record.job_id, taken) if own else ""
        job.knows(job.record.given.model_copy(update={"address": address}))
        job.note(phases={**job.record.phases, **phases})
        return await self._ready(job, bundle, RuntimeReply(action=RuntimeAction.CREATE))

    async def _next_rung(self, job: ProtectedJob, bundle: Bundle) -> RuntimeReply:
        """The newest checkpoint that has not failed yet; below the last rung a clean start on clean files."""
        done = {rung.number for rung in job.record.rungs if not rung.node_fault and not rung.again}
        for number in await stored_job.offered(job, _plan(job).quarantined):
            if number in done:
                continue
            await job.end_verifying()  # of the rung before
            job.mark_restoring(number)
            try:
                await stored_job.bring(job, number)
                if _plan(job).cold_volume:
                    fetched = await asyncio.to_thread(engine.fetch, job.job_root, number)
                    job.note(phases={**job.record.phases, "fetched": fetched})
                await self._fit(job, number)
                prepare = partial(
                    engine.prepare_restore,
                    job.container,
                    number,
                    epoch=job.epoch,
                    job_id=job.record.job_id,
                    claim=partial(self.ports.claim, job.record.container_id),
                    predecessors=_plan(job).predecessors,
                    pages_later=True,
                    lazily=self._wants_lazily(job),
                )
                prepared, device_remark = await self._with_devices(job, prepare)
            except RestoreFailed as problem:
                self._fell(job, number, problem)
                continue
            job.manifest = prepared.manifest
            if prepared.pages_later:
                job.verify_pages(number)
            job.note(lazily=prepared.lazily, not_lazy=prepared.not_lazy or job.record.not_lazy)
            job.note(network_remark=" ".join(filter(None, [prepared.network.remark(), device_remark])))
            job.knows(prepared.manifest.surroundings)
            await asyncio.to_thread(make_volumes, job.rules, job.job_root, fresh=False)
            job.mark_stopped(prepared.manifest.stopped)
            job.note(phases={**job.record.phases, **prepared.phases})
            tools = job.container.tools
            return await self._ready(
                job,
                bundle,
                RuntimeReply(
                    action=RuntimeAction.RESTORE,
                    argv=prepared.argv,
                    criu=str(tools.criu),
                    path_first=str(tools.path_first),
                    verifying=prepared.pages_later or prepared.lazily,
                ),
            )
        return await self._below_the_ladder(job, bundle)

    @staticmethod
    def _wants_lazily(job: ProtectedJob) -> bool:
        """Is the job to go on before its memory is all there? Should that fail later, its container is ended: only
        where Batch then starts it again."""
        if not job.settings.lazy_restore or job.record.not_lazy:
            return False
        plan = _plan(job)
        if plan.hand_over is not HandOver.END_CONTAINER:
            job.note(not_lazy="its retry rules do not start it again after exit code 137, or no attempt is left")
        elif plan.store is not None:
            job.note(not_lazy="its checkpoints are in a store")
        return not job.record.not_lazy

    @staticmethod
    async def _fit(job: ProtectedJob, number: int) -> None:
        """The container gets the checkpoint's layers. RestoreFailed, the node's fault, if they are not to be had, or if
        its mounts are not the checkpoint's. (A manifest that cannot be read is told by the restore itself.)"""
        overlay = job.record.engines_overlay
        try:
            manifest = await asyncio.to_thread(engine.read_head, job.job_root, number)
        except ImageInvalid:
            return
        if overlay is None:
            return
        check_same(manifest.mounts, job.rules)
        here = await asyncio.to_thread(read_image, job.record.container_id, overlay)
        lower = await layers_for(manifest.image, here, overlay)
        job.on_layers(lower, manifest.image or here, older=tuple(lower) != overlay.lower)

    def _fell(self, job: ProtectedJob, number: int, problem: RestoreFailed, *, again: bool = False) -> None:
        log.warning("not restored", job_id=job.record.job_id, checkpoint=number, reason=str(problem))
        rung = RestoreRung(
            number=number,
            reason=str(problem)[:_LONGEST_REASON],
            node_fault=problem.node_fault,
            image_fault=problem.image_fault,
            again=again,
        )
        job.note(rungs=[*job.record.rungs, rung])
        here = sum(rung.node_fault for rung in job.record.rungs if rung.number == number)
        if problem.node_fault and (
            retries_failed_start(_plan(job)) or problem.step != "restore" or here >= _TRIES_ON_A_FAULTY_NODE
        ):
            # Not the checkpoint's fault: another node may restore it, where Batch will try one. An older one would fare
            # no better here, so the ladder is not descended.
            said = f"this node cannot restore checkpoint {number}: {problem}"  # the container engine shows this alone
            raise RestoreFailed(said, problem.step, node_fault=True)

    async def _below_the_ladder(self, job: ProtectedJob, bundle: Bundle) -> RuntimeReply:
        """Nothing could be restored. A clean start drops the checkpoints, which is right only where they failed: where
        a node's fault stood in the way, or the restore was killed, they are kept and the container runs unprotected
        beside them."""
        faults = [rung for rung in job.record.rungs if rung.node_fault or rung.again]
        if faults:
            said = f"this node cannot restore checkpoint {faults[-1].number}: {faults[-1].reason}"
            raise RestoreFailed(said, "restore", node_fault=True)
        return await self._fresh(job, bundle)

    async def _ready(self, job: ProtectedJob, bundle: Bundle, reply: RuntimeReply) -> RuntimeReply:
        job.container = job.with_mounts(job.rules)
        network = await self._network(job, bundle)
        await asyncio.to_thread(engine.show_volumes, job.container)
        await asyncio.to_thread(
            edit_config,
            bundle,
            job_root=job.job_root,
            mount_path=_volume_settings(_plan(job)).mount_path,
            rules=job.rules,
            restore=reply.action is RuntimeAction.RESTORE,
            criu_config=job.container.criu_config,
            keep_in=job.folder,
            io_uring=not job.settings.refuse_io_uring,
            network=network,
        )
        job.handed_out = time.monotonic()
        return reply.model_copy(update={"keeper": [str(job.job_root / "log"), str(job.container.keeper_socket)]})

    async def _network(self, job: ProtectedJob, bundle: Bundle) -> Path | None:
        """The job's own namespace, made anew for each rung: CRIU's lock may be left where a restore failed."""
        address = job.record.surroundings.address
        if any(address and other is not job and other.record.surroundings.address == address for other in self._jobs):
            raise RestoreFailed(f"another job on this node has the address {address}", "network", node_fault=True)
        await remove_network(job.network_file)
        job.note(own_network=bool(address) or bundle.own_network())
        job.container = replace(job.container, own_network=job.record.own_network)
        if not address:
            return None
        await make_network(job.network_file, address)
        return job.network_file

    async def _with_devices(
        self, job: ProtectedJob, prepare: Callable[..., Awaitable[engine.Prepared]]
    ) -> tuple[engine.Prepared, str]:
        """With the job's own device numbers. Where one stays taken on this node and Batch would not try another node,
        with other ones: the second value says so, for people."""
        own = partial(self._patiently, partial(prepare, any_device=False))
        try:
            return await self._patiently(own, DeviceNumberTaken, _NUMBER_TRIES), ""
        except DeviceNumberTaken as problem:
            if retries_failed_start(_plan(job)):
                raise
            said = f"Now {problem}, and the files have another one: a program that compares device numbers, such as "
            said += "SQLite when one process opens a database twice, may take one file for two."
            return await self._patiently(partial(prepare, any_device=True)), said

    @staticmethod
    async def _patiently(
        work: Callable[[], Awaitable[T]], passes: type[PerdureError] = JobRootBusy, tries: int = _BUSY_TRIES
    ) -> T:
        """What an earlier try left goes within seconds; what `passes` stands after so many tries."""
        for _ in range(tries - 1):
            try:
                return await work()
            except passes as problem:
                log.info("it is tried again", reason=str(problem))
            await asyncio.sleep(_BETWEEN_TRIES)
        return await work()

    async def _blame(self, job: ProtectedJob, number: int, message: str) -> RestoreFailed:
        """Why runc did not restore it, and whose fault that surely was. An image that is whole may still hold what
        cannot be restored."""
        try:
            await job.pages_sound(number)
        except ImageInvalid as damage:
            return damage
        size = job.manifest.image_bytes if job.manifest else 0
        problem = engine.restore_failure(job.container, message, needed_bytes=size)
        problem = await engine.name_taken_port(job.container, number, problem)
        if problem.node_fault or problem.image_fault:
            return problem
        try:
            await engine.check_criu(job.container.tools, _CHECK_SECONDS)
        except CommandFailed as broken:
            return RestoreFailed(f"{problem}; CRIU does not work on this node: {broken}", problem.step, node_fault=True)
        return problem

    async def after_failure(self, job: ProtectedJob, bundle: Bundle, number: int, message: str) -> RuntimeReply:
        """The order after runc could not restore checkpoint `number`; `message` holds its last words. If it was to be
        restored lazily, it is restored whole, whatever the fault was."""
        self.ports.release(job.record.container_id)
        if job.record.lazily:
            log.warning("not restored lazily", job_id=job.record.job_id, checkpoint=number, reason=message[-1000:])
            job.note(lazily=False, not_lazy=f"it failed: {message[-_LONGEST_REASON:]}")
            return await self._next_rung(job, bundle)
        problem = await self._blame(job, number, message)
        tried = [rung for rung in job.record.rungs if rung.number == number]
        # Killed, or not even begun: that may have been a matter of the moment. A CRIU that crashes on this image does
        # so again.
        again = not tried and not re.match(GAVE_UP, message) and not problem.node_fault and not problem.image_fault
        self._fell(job, number, problem, again=again)
        return await self._next_rung(job, bundle)


def _plan(job: ProtectedJob) -> AttachReply:
    assert job.record.plan is not None
    return job.record.plan


def _volume_settings(plan: AttachReply) -> JobVolumeConfiguration:
    return plan.configuration.job_volume if plan.configuration else JobVolumeConfiguration()
