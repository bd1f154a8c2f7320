"""Every row: started, saved, killed by a power loss, restored on another node; saved by a notice, moved to another
zone, restored; and what it wrote compared with a run to which nothing happened."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path

import pytest

from perdure.domain.checkpoints import CheckpointKind, Manifest
from perdure.domain.errors import CheckpointFailed, DeviceNumberTaken, NotCheckpointable
from tests.integration.engine_bed import Bed, Running, alive
from tests.integration.engine_places import wait_for
from tests.integration.matrix.image import image
from tests.integration.matrix.rows import ROWS, Row
from tests.patience import PATIENCE
from worker_agent.engine import (
    Container,
    Identity,
    continue_restored,
    end_frozen,
    ensure_layout,
    finish_restore,
    prepare_fresh,
    prepare_restore,
    release,
    take_checkpoint,
)
from worker_agent.engine.restore import Prepared
from worker_agent.engine.writable_layer import unmount_layer

pytestmark = [pytest.mark.criu]

JOBS = Path(__file__).parent / "jobs"
JOB_ID = "66666666-7777-8888-9999-000000000000"
READY = 120.0


def _parameter(row: Row) -> object:
    marks = [pytest.mark.row(row.section, row.name)]
    if not row.quick:
        marks.append(pytest.mark.matrix)
    if row.fails:
        marks.append(pytest.mark.xfail(strict=True, reason=row.fails))
    if row.cycles > 1 or row.image:  # the first of these may have to make the image
        marks.append(pytest.mark.timeout(2400))
    return pytest.param(row, marks=marks, id=row.name.replace(" ", "-"))


@pytest.fixture
async def bed(row: Row) -> AsyncIterator[Bed]:
    if row.needs_capability and not _has_capability(row.needs_capability):
        pytest.skip(f"root on this machine lacks {row.needs_capability}")
    with _huge_pages(row.huge_pages):
        async with _bed(row) as made:
            yield made


@asynccontextmanager
async def _bed(row: Row) -> AsyncIterator[Bed]:
    made = Bed.make(row.mebibytes)
    try:
        made.jobs, made.command, made.mounts, made.process = JOBS, row.argv, row.mounts, row.process
        made.launch_limit = READY
        if row.image:
            made.image = str(image())
        if row.user:
            made.process = {**row.process, "user": _numbers(Path(made.image), row.user)}
        with made.outside() if row.outside else nullcontext():
            made.new_node()
            yield made
            made.leave_node()
    finally:
        await made.close()


@contextmanager
def _huge_pages(count: int) -> Iterator[None]:
    """Reserve them for the time of a test: skipped where the machine has none to give. CRIU recognises them only if
    there were some when it first looked at the kernel: what it keeps of that look is thrown away."""
    setting, seen_by_criu = Path("/proc/sys/vm/nr_hugepages"), Path("/run/criu.kdat")
    if not count:
        yield
        return
    if not setting.exists():
        pytest.skip("this kernel has no huge pages")
    before = int(setting.read_text())
    try:
        setting.write_text(str(before + count))
        if int(setting.read_text()) < before + count:
            pytest.skip(f"this machine has no memory in one piece for {count} huge pages")
        seen_by_criu.unlink(missing_ok=True)
        yield
    finally:
        setting.write_text(str(before))


def _numbers(image: Path, user: str) -> dict[str, object]:
    lines = [line.split(":") for line in (image / "etc/passwd").read_text().splitlines()]
    uid, gid = next((int(fields[2]), int(fields[3])) for fields in lines if fields[0] == user)
    return {"uid": uid, "gid": gid}


def _has_capability(name: str) -> bool:
    numbers = {"CAP_SYS_RESOURCE": 24}
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:\t")[2].split()[0], 16) >> numbers[name] & 1)


@pytest.mark.parametrize("row", [_parameter(row) for row in ROWS])
async def test_a_row_comes_back_as_it_was(bed: Bed, row: Row) -> None:
    wanted = _end(bed, await _start(bed))
    running = await _start(bed)
    if row.refused:
        with pytest.raises((NotCheckpointable, CheckpointFailed), match=row.refused):
            await _checkpoint(running, 1)
    else:
        for epoch in range(1, 2 * row.cycles, 2):
            running = await _through_a_death(bed, row, running, epoch)
            running = await _through_a_notice(bed, row, running, epoch + 1)
    assert _end(bed, running) == wanted


async def _start(bed: Bed) -> Running:
    ensure_layout(bed.volume.root)
    container = bed.container()
    await prepare_fresh(container, epoch=1)
    if bed.process:  # a user that is not root
        (bed.volume.root / "seen/data").chmod(0o1777)
    running = bed.start(bed.launch(container, ["create"]))
    wait_for(lambda: b"ready\n" in running.log() or not alive(running.container.init_pid), "ready", READY)
    assert alive(running.container.init_pid), (running.log(), running.log("stderr"))
    return running


def _end(bed: Bed, running: Running) -> tuple[int, bytes, bytes]:
    """Tell the job to end: its exit code and all of its output."""
    (bed.volume.root / "seen/data/finish").touch()
    code = running.exit_code(READY)
    assert code == 0, (code, running.log(), running.log("stderr"))
    return code, running.log(), running.log("stderr")


def _goes_on(bed: Bed, running: Running) -> None:
    """The job works on, so that it is past the checkpoint (jobs that cannot show it are not waited for)."""
    beat = bed.volume.root / "seen/data/beat"
    if beat.exists():
        count = int(beat.read_text() or 0)
        wait_for(lambda: int(beat.read_text() or 0) > count + 2 or not alive(running.container.init_pid), "work")
    assert alive(running.container.init_pid), (running.log(), running.log("stderr"))


async def _through_a_death(bed: Bed, row: Row, running: Running, epoch: int) -> Running:
    """A periodic checkpoint; then the disk loses what was not synced and all processes die. On another node."""
    manifest = await _checkpoint(running, epoch)
    _holds(row, manifest)
    _goes_on(bed, running)
    bed.volume.lose_power()
    bed.kill(running)
    unmount_layer(running.container.job_root)
    bed.change_node()
    return await _restore(bed, epoch + 1, manifest)


async def _through_a_notice(bed: Bed, row: Row, running: Running, epoch: int) -> Running:
    """A final checkpoint; the volume goes to another zone."""
    manifest = await _checkpoint(running, epoch, CheckpointKind.FINAL)
    _holds(row, manifest)
    await end_frozen(running.container)
    await release(running.container)
    bed.change_node(move=True)
    return await _restore(bed, epoch + 1, manifest)


def _holds(row: Row, manifest: Manifest) -> None:
    saved = {process.partition(" ")[2] for process in manifest.processes}
    assert saved >= set(row.processes), f"not among the saved processes: {manifest.processes}"


async def _checkpoint(running: Running, epoch: int, kind: CheckpointKind = CheckpointKind.PERIODIC) -> Manifest:
    identity = Identity(JOB_ID, epoch=epoch, attempt=epoch, instance_id=f"i-{epoch:017x}", zone="us-east-1a")
    return await take_checkpoint(
        running.container, identity, kind=kind, limit_seconds=PATIENCE, keep=2, reserve_bytes=32 << 20
    )


async def _prepared(container: Container, number: int, epoch: int) -> Prepared:
    """With the job's own device numbers. All tests share a kernel, so another one's mount may have them for a while."""
    end = time.monotonic() + READY
    while True:
        try:
            return await prepare_restore(container, number, epoch=epoch, job_id=JOB_ID, any_device=False)
        except DeviceNumberTaken:
            if time.monotonic() > end:
                raise


async def _restore(bed: Bed, epoch: int, manifest: Manifest) -> Running:
    container = bed.container()
    prepared = await _prepared(container, manifest.number, epoch)
    running = bed.launch(container, ["restore", *prepared.argv])
    await finish_restore(running.container, prepared.manifest)
    await continue_restored(running.container, prepared.manifest)
    _goes_on(bed, running)
    return running
