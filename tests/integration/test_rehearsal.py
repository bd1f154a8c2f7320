"""Rehearsals on real processes: a checkpoint is restored beside its running job, and nobody feels it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.domain.checkpoints import CheckpointKind, Manifest, RehearsalVerdict
from perdure.image.files import walk
from tests.integration.engine_bed import Bed, Running, freezer_of
from tests.integration.engine_places import Volume, set_network, tool, wait_for
from tests.integration.rehearsal_left import left_of
from tests.integration.test_engine import JOB_ID, chain, identity, uninterrupted, written
from tests.patience import PATIENCE
from worker_agent.engine import ensure_layout, prepare_fresh, take_checkpoint
from worker_agent.rehearse.rehearsals import no_room
from worker_agent.rehearse.remains import stage_argv, tidy
from worker_agent.rehearse.shielding import SETTINGS, network_settings
from worker_agent.rehearse.spec import Answer, Spec
from worker_agent.rehearse.staging import NAMESPACES, PRIORITY, make_folder, run_stage

pytestmark = [pytest.mark.criu]
LIMIT = 600.0


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    made = Bed.make()
    try:
        made.new_node()
        yield made
    finally:
        await made.close()


async def started(bed: Bed, command: list[str]) -> Running:
    bed.command = command
    ensure_layout(bed.volume.root)
    container = bed.container()
    await prepare_fresh(container, epoch=1)
    running = bed.start(bed.launch(container, ["create"]))
    running.first_line()
    return running


async def checkpoint(running: Running) -> Manifest:
    return await take_checkpoint(
        running.container,
        identity(1),
        kind=CheckpointKind.PERIODIC,
        limit_seconds=PATIENCE,
        keep=2,
        reserve_bytes=32 << 20,
    )


def spec(running: Running, number: int, **more: object) -> Spec:
    fields: dict[str, object] = {
        "own_network": False,
        "network_settings": network_settings(SETTINGS),
        "memory_bytes": 512 << 20,
        "reserve_bytes": 32 << 20,
        "restore_seconds": LIMIT,
    }
    return Spec.of(running.container, job_id=JOB_ID, number=number, **fields | more)


def assert_nothing_left(running: Running) -> None:
    left = left_of(running.container.job_root, running.container.id)
    assert not left, "\n".join(left)


def fingerprint(root: Path) -> dict[str, object]:
    """Every file below: bytes, owner, mode, times, inode."""
    found: dict[str, object] = {}
    for entry in walk(root):
        status = entry.status
        content = (root / entry.path).read_bytes() if entry.kind == 0o100000 else b""
        found[entry.path] = (content, status.st_ino, status.st_mode, status.st_uid, status.st_mtime_ns, status.st_nlink)
    return found


def pause(running: Running) -> None:
    container = running.container
    subprocess.run([container.tools.runc, "--root", container.runc_root, "pause", container.id], check=True)


async def rehearse(running: Running, number: int, **more: object) -> Answer:
    answer = await run_stage(spec(running, number, **more), LIMIT)
    assert_nothing_left(running)
    return answer


async def test_a_good_job_passes_and_goes_on_as_if_nothing_were(bed: Bed) -> None:
    running = await started(bed, chain())
    running.more_lines(5)
    manifest = await checkpoint(running)
    answer = await rehearse(running, manifest.number)
    assert (answer.verdict, answer.reason) == (RehearsalVerdict.PASSED, "")
    assert answer.processes == 3
    assert running.end() == 0
    assert written(bed, running) == uninterrupted()


async def test_no_byte_of_the_jobs_own_files_changes(bed: Bed) -> None:
    """Seen while the job stands: what it writes itself would hide what somebody else writes."""
    running = await started(bed, chain())
    running.more_lines(5)
    manifest = await checkpoint(running)
    pause(running)
    trees = [bed.volume.root / name for name in ("layer/upper", "data", "volumes", "log", "checkpoints")]
    before = [fingerprint(tree) for tree in trees]
    images = {image.path for image in manifest.images}
    assert (await rehearse(running, manifest.number)).verdict is RehearsalVerdict.PASSED
    assert [fingerprint(tree) for tree in trees] == before and images
    freezer_of(running).thaw()
    running.more_lines(2)


async def test_every_odd_thing_that_a_job_holds_and_nobody_outside_hears_of_it(bed: Bed) -> None:
    things = (
        "lost_name nameless locks fifo unix_socket events watch watch_root watch_file zombie private threads outside"
    )
    with bed.outside():
        bed.new_node()
        running = await started(bed, ["/usr/bin/python3", "/jobs/odd.py", "/data", "/var/lib", *things.split()])
        manifest = await checkpoint(running)
        pause(running)  # so that all that the server hears is the rehearsal's
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        before = segments(here), segments(bed.home)
        answer = await rehearse(running, manifest.number)
        assert (answer.verdict, answer.reason) == (RehearsalVerdict.PASSED, "")
        assert (segments(here), segments(bed.home)) == before, "somebody heard of it"
        os.close(here)
        freezer_of(running).thaw()
        assert running.end() == 0, running.log().decode()


def segments(network: int) -> list[str]:
    """How many TCP segments came and went, as the kernel counts them in that network namespace."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        set_network(network)
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        return [line for line in lines if line.startswith("Tcp:")][1].split()[10:12]
    finally:
        set_network(here)
        os.close(here)


async def test_a_damaged_image_is_found_and_named(bed: Bed) -> None:
    running = await started(bed, chain())
    manifest = await checkpoint(running)
    largest = max(manifest.images, key=lambda image: image.size)
    with open(bed.volume.root / "checkpoints" / str(manifest.number) / largest.path, "r+b") as image:
        image.seek(largest.size // 2)
        byte = image.read(1)
        image.seek(largest.size // 2)
        image.write(bytes([byte[0] ^ 1]))
    answer = await rehearse(running, manifest.number)
    assert answer.verdict is RehearsalVerdict.FAILED
    assert "wrong checksum" in answer.reason and largest.path.rpartition("/")[2] in answer.reason


async def test_what_criu_cannot_restore_is_found_and_named(bed: Bed, tmp_path: Path) -> None:
    """A file behind a read-only mount that grew since: the dump is fine, and no restore can be."""
    outside = tmp_path / "growing"
    outside.write_bytes(b"x" * 100)
    bed.jobs = tmp_path
    (tmp_path / "chain.py").write_bytes((Path(__file__).parent / "jobs/chain.py").read_bytes())
    read = "import time; f = open('/jobs/growing'); print('open', flush=True); time.sleep(1000)"
    running = await started(bed, ["/usr/bin/python3", "-c", read])
    manifest = await checkpoint(running)
    assert (await rehearse(running, manifest.number)).verdict is RehearsalVerdict.PASSED
    with outside.open("ab") as more:
        more.write(b"more")
    answer = await rehearse(running, manifest.number)
    assert answer.verdict is RehearsalVerdict.FAILED
    assert "growing has bad size" in answer.reason, answer.reason


async def test_a_shared_mount_is_out_of_reach(bed: Bed, tmp_path: Path) -> None:
    """It has a lock, a file without a name, a FIFO and a socket there: all of it is its own alone in a rehearsal."""
    shared = tmp_path / "shared"
    shared.mkdir()
    os.mkfifo(shared / "fifo")
    bed.mounts = [{"destination": "/shared", "type": "bind", "source": str(shared), "options": ["rbind", "rw"]}]
    program = """
import fcntl, os, socket, time
log = open('/shared/log', 'w+'); log.write('first line'); log.flush(); fcntl.flock(log, fcntl.LOCK_EX)
gone = open('/shared/gone', 'w+'); gone.write('x' * 100); gone.flush(); os.unlink('/shared/gone')
fifo = os.open('/shared/fifo', os.O_RDWR)
server = socket.socket(socket.AF_UNIX); server.bind('/shared/socket'); server.listen()
print('ready', flush=True)
time.sleep(1000)
"""
    running = await started(bed, ["/usr/bin/python3", "-c", program])
    reader = os.open(shared / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        manifest = await checkpoint(running)
        before = fingerprint(shared)
        answer = await rehearse(running, manifest.number)
        assert (answer.verdict, answer.reason) == (RehearsalVerdict.PASSED, "")
        assert fingerprint(shared) == before
        assert not select.select([reader], [], [], 0)[0], "the FIFO's reader was woken"
        with open(shared / "log") as log, pytest.raises(BlockingIOError):  # the job still has its lock, and alone
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(reader)


async def test_a_large_file_that_it_writes_on_a_shared_mount_is_a_reason_not_to(bed: Bed, tmp_path: Path) -> None:
    """It would be copied to the job volume, and could fill it."""
    bed.mounts = [{"destination": "/shared", "type": "bind", "source": str(tmp_path), "options": ["rbind", "rw"]}]
    program = "import time; f = open('/shared/f', 'w'); f.truncate(65 << 20); print(1, flush=True); time.sleep(1000)"
    running = await started(bed, ["/usr/bin/python3", "-c", program])
    answer = await rehearse(running, (await checkpoint(running)).number)
    assert answer.verdict is RehearsalVerdict.NOT_TRIED and "65 MiB" in answer.reason


async def test_its_own_large_file_takes_no_space(bed: Bed) -> None:
    program = (
        "import os; f = open('/data/f', 'wb'); f.write(os.urandom(1 << 20) * 600); f.flush(); print(1, flush=True)"
    )
    running = await started(bed, ["/usr/bin/python3", "-c", f"{program}; import time; time.sleep(1000)"])
    manifest = await checkpoint(running)
    answer = await rehearse(running, manifest.number)
    assert (answer.verdict, answer.reason) == (RehearsalVerdict.PASSED, "")


async def test_a_neighbours_volume_can_be_taken_away_in_the_middle_of_it(bed: Bed) -> None:
    neighbour = Volume(bed.volume.image.with_name("neighbour.img"), bed.folder / "neighbour", 320)
    neighbour.attach()
    try:
        running = await started(bed, chain())
        wanted = spec(running, (await checkpoint(running)).number)
        task = asyncio.create_task(run_stage(wanted, LIMIT))
        while not wanted.alone.exists():
            assert not task.done()
            await asyncio.sleep(0.001)
        stage = inside(wanted)
        os.kill(stage, signal.SIGSTOP)
        try:
            await asyncio.to_thread(neighbour.detach)
            wait_for(lambda: not tool("losetup", "--associated", neighbour.image), "the neighbour's disk free")
            assert not task.done()
        finally:
            os.kill(stage, signal.SIGCONT)
        assert (await task).verdict is RehearsalVerdict.PASSED
    finally:
        neighbour.detach()


def inside(wanted: Spec) -> int:
    """The first process of the rehearsal that runs."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(bytes(1))
            if os.fsencode(wanted.folder / "spec.json") in words and b"python" in os.path.basename(words[0]):
                return int(process.name)
    raise AssertionError("no rehearsal runs")


@pytest.mark.parametrize(
    ("needed", "available", "why_not"),
    [
        (1 << 30, 4 << 30, ""),
        (3 << 30, 4 << 30, "it needs 3328 MiB of memory and 1638 MiB must stay free, but the instance has 4096 MiB"),
        (2 << 30, (2 << 30) + (256 << 20) + (16 << 30) // 10, ""),
    ],
)
def test_only_where_memory_is_free(needed: int, available: int, why_not: str) -> None:
    assert no_room(needed, available, 16 << 30) == why_not


async def test_a_device_is_a_reason_not_to_rehearse(bed: Bed) -> None:
    bed.mounts = [{"destination": "/dev/fuse", "type": "bind", "source": "/dev/kmsg", "options": ["bind", "rw"]}]
    running = await started(bed, chain())
    answer = await rehearse(running, (await checkpoint(running)).number)
    assert answer.verdict is RehearsalVerdict.NOT_TRIED and "/dev/fuse" in answer.reason


@pytest.mark.parametrize("after", [0.0, 0.05, 0.3, 0.6, 0.9, 1.2, 1.6])
async def test_cut_short_at_any_moment_nothing_is_left(bed: Bed, after: float) -> None:
    running = await started(bed, chain(mebibytes=64))
    manifest = await checkpoint(running)
    task = asyncio.create_task(run_stage(spec(running, manifest.number), LIMIT))
    await asyncio.sleep(after)  # wherever it is then
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert_nothing_left(running)
    running.more_lines(2)


RUNNER = """
import asyncio, sys
from pathlib import Path
from worker_agent.rehearse.spec import Spec
from worker_agent.rehearse.staging import run_stage
print(asyncio.run(run_stage(Spec.model_validate_json(Path(sys.argv[1]).read_bytes()), 600)))
"""


@pytest.mark.parametrize("until", ["spec.json", "images", "work/restore.log"])
async def test_it_dies_with_the_agent_and_the_next_one_cleans(bed: Bed, until: str, tmp_path: Path) -> None:
    running = await started(bed, chain(mebibytes=64))
    manifest = await checkpoint(running)
    wanted = spec(running, manifest.number)
    (tmp_path / "spec").write_text(wanted.model_dump_json())
    agent = subprocess.Popen([sys.executable, "-c", RUNNER, str(tmp_path / "spec")])
    try:
        wait_for(lambda: (wanted.folder / until).exists() or agent.poll() is not None, until, pause=0.001)
        assert agent.poll() is None, "it was over before it could be killed"
    finally:
        agent.send_signal(signal.SIGKILL)
        agent.wait()
    assert await asyncio.to_thread(tidy, wanted.job_root, wanted.container_id) == ""
    assert_nothing_left(running)
    running.more_lines(2)


@pytest.mark.parametrize("until", ["spec.json", "work/restore.log"])
async def test_one_that_was_not_told_to_die_and_gets_no_processor_is_ended(bed: Bed, until: str) -> None:
    """Its agent was killed before it had asked to die with it, and others want its processor at a higher priority."""
    running = await started(bed, chain(mebibytes=64))
    wanted = spec(running, (await checkpoint(running)).number)
    make_folder(wanted)
    orphan = [*PRIORITY, *NAMESPACES, sys.executable, *stage_argv(wanted.folder)]
    stage = subprocess.Popen(orphan, start_new_session=True, stdout=subprocess.DEVNULL)
    busy = None
    try:
        wait_for(lambda: (wanted.folder / until).exists() and len(its_processes(wanted)) > 1, until, pause=0.001)
        cpu = max(os.sched_getaffinity(0))
        for pid in its_processes(wanted):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(pid, {cpu})
        busy = subprocess.Popen(["nice", "-n", "-5", "taskset", "-c", str(cpu), "sh", "-c", "while :; do :; done"])
        assert await asyncio.to_thread(tidy, wanted.job_root, wanted.container_id) == ""
        assert_nothing_left(running)
        assert stage.wait(LIMIT) == -signal.SIGKILL
    finally:
        for process in filter(None, (busy, stage)):
            process.kill()
            process.wait()
    running.more_lines(2)


def its_processes(wanted: Spec) -> list[int]:
    """Those of the rehearsal that runs, as the agent's tests see them."""
    return [int(words.split()[1].rstrip(":")) for words in left_of(wanted.job_root) if words.startswith("process ")]
