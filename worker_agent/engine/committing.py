"""The last steps of a checkpoint, while the job runs on: checksums, the manifest, and old ones go."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import structlog

from perdure.domain.checkpoints import CheckpointKind, Manifest, droppable
from perdure.domain.errors import CheckpointFailed, PerdureError
from perdure.image import checksums, files
from perdure.image.layout import IMAGES
from perdure.image.manifest import encode_name
from worker_agent.engine import job_root as roots
from worker_agent.engine import machine
from worker_agent.engine.commands import complete
from worker_agent.engine.connections import outside_addresses
from worker_agent.engine.linked_remaps import lost_remaps
from worker_agent.engine.page_images import check_length
from worker_agent.engine.threads import urgently
from worker_agent.engine.work import Work

log = structlog.get_logger()


async def examine_images(work: Work) -> None:
    """What the freeze has no time for: whether CRIU's lists agree with what the pages files hold (ImageInvalid), whose
    the job's sockets were, and whether a file lost its name since the look (CheckpointFailed; the next try sees it)."""
    images = work.path / IMAGES
    await work.in_thread(check_length, images)
    work.addresses = await work.in_thread(outside_addresses, images)
    if await work.in_thread(lost_remaps, images):
        raise CheckpointFailed("a file that the job has open lost its name in the moment of the checkpoint", "images")


async def digest(work: Work) -> None:
    """Checksums of everything. Pages that went through the sink have theirs: those files are not read again."""
    known = work.assembled.files if work.assembled else []
    work.images = await work.in_thread(checksums.digest_images, work.path, known)
    work.files_digest = await work.in_thread(files.digest_clones, work.path)


async def commit(work: Work) -> None:
    """From here on the checkpoint exists. The lease is looked at last: an older epoch commits nothing."""
    await urgently(roots.check_lease, work.container.job_root, work.identity.epoch)
    if work.kind is CheckpointKind.FINAL:
        work.phases["frozen"] = time.monotonic() - work.frozen_since
    manifest = await _manifest(work)
    await complete(_put(work, manifest))


async def _put(work: Work, manifest: Manifest) -> None:
    await urgently(work.store.put, manifest)
    work.manifest = manifest
    work.container.doubts.clear()


async def prune(work: Work) -> None:
    """Keep the newest ones, as configured. The checkpoint is committed: what fails here is tried again by the next."""
    try:
        heads = await work.in_thread(work.store.committed)
        numbers = await work.in_thread(work.store.numbers)
        for number in droppable(numbers, work.keep, {head.number: head.full for head in heads}):
            await work.in_thread(work.store.delete, number, work.hurry.is_set)
    except (PerdureError, OSError) as error:
        log.warning("an old checkpoint was not deleted", job_id=work.identity.job_id, error=str(error))


def _written(work: Work) -> int:
    """Bytes of the memory image that went to the disk for this checkpoint."""
    if work.assembled is None:
        return sum(image.size for image in work.images)
    return work.assembled.written_bytes + sum(image.size for image in work.images if not image.index)


async def _manifest(work: Work) -> Manifest:
    container, identity = work.container, work.identity
    here = await machine.describe(container.tools)
    assert work.frozen_at is not None
    return Manifest(
        job_id=identity.job_id,
        number=int(work.path.name),
        kind=work.kind,
        epoch=identity.epoch,
        attempt=identity.attempt,
        instance_id=identity.instance_id,
        zone=identity.zone,
        frozen_at=work.frozen_at,
        committed_at=datetime.now(UTC),
        container_id=container.id,
        criu_version=here.criu,
        runc_version=here.runc,
        kernel=here.kernel,
        cpu_features=here.cpu_features,
        images=work.images,
        full=work.base.full if work.base else int(work.path.name),
        after_full=work.base.after_full + 1 if work.base else 0,
        written_bytes=_written(work),
        files_digest=work.files_digest,
        inodes=work.inodes,
        threads=work.threads,
        broken=work.broken,
        last_pid=work.last_pid,
        stdio=work.stdio,
        mounts=list(container.mounts),
        lower_layers=list(container.lower_layers),
        image=container.image,
        processes=work.processes,
        gpus=work.gpus,
        stopped=work.stood_stopped,
        phases=work.phases,
        addresses=work.addresses,
        surroundings=container.surroundings.model_copy(update={"hosts": work.hosts}),
        devices=work.devices,
        lent_names=[encode_name(name) for name in work.names],
    )
