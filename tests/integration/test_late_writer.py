"""One writer at a time: a restart takes a volume over by rule, a late old node cannot write. Real devices, real bytes.

The product's own activities ask the local EBS; the late writer is a process that holds the device open on the old node.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from temporalio.testing import ActivityEnvironment

from activities.volumes import Volumes
from localcloud.aws.ebs import link_name
from localcloud.stack.pool import free_disks, make_pool
from perdure.contracts.control import AttachVolume, CreateVolume, DetachVolume
from perdure.domain.errors import Fenced, VolumeFailed
from tests.integration.test_ebs import Guest, MountLauncher, attachment, state
from tests.patience import PATIENCE
from tests.unit.cloud_bed import ZONES, CloudBed, cloud_bed, wait_for
from worker_agent.engine.job_root import check_lease, claim_lease

pytestmark = pytest.mark.criu

FOLDER = Path("/var/lib/perdure-local") / f"test-late-{os.getpid()}"
T = TypeVar("T")
WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
print("open", flush=True)
for line in sys.stdin:
    try:
        os.pwrite(fd, b"late" * 1024, 64 << 20)
        os.fsync(fd)
        print("written", flush=True)
    except OSError as problem:
        print("refused", problem.errno, flush=True)
"""


@pytest.fixture
def bed() -> Iterator[CloudBed]:
    FOLDER.mkdir(parents=True)
    try:
        make_pool(FOLDER)
        with cloud_bed(FOLDER, MountLauncher(), nodes_per_zone=0) as bed:
            bed.refresh()
            bed.http.post("/_local/nodes", json={"zone": ZONES[0]}).raise_for_status()
            yield bed
    finally:
        free_disks(FOLDER)
        shutil.rmtree(FOLDER)


async def run(activity: Callable[[Any], Awaitable[T]], argument: object) -> T:
    return await asyncio.wait_for(ActivityEnvironment().run(activity, argument), PATIENCE)


class LateWriter:
    """Holds the volume's device open on a node, and writes when it is told to."""

    def __init__(self, guest: Guest, volume_id: str) -> None:
        device = Path(f"/proc/{guest.pid}/root") / "dev/disk/by-id" / link_name(volume_id)
        argv = ["python3", "-c", WRITER, os.readlink(device)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._said() == "open"

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def write(self) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._said()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


async def volume_on(bed: CloudBed, guest: Guest) -> tuple[Volumes, str]:
    volumes = Volumes(0.02, bed.aws.ec2)
    request = CreateVolume(job_id="job-1", zone=ZONES[0], volume_type="gp3", size_gib=1, token="t")
    volume_id = (await run(volumes.create_volume, request)).volume_id
    await run(volumes.attach_volume, AttachVolume(volume_id=volume_id, instance_id=guest.instance_id))
    return volumes, volume_id


async def test_a_restart_waits_for_a_living_node_that_still_has_the_volume_mounted(bed: CloudBed) -> None:
    """Never by force: what the old node had not written would be lost, and its job with it."""
    old, new = _two_nodes(bed)
    volumes, volume_id = await volume_on(bed, old)
    inside = old.mount(volume_id, make=True)
    claim_lease(inside, 1)
    taking = asyncio.create_task(run(volumes.detach_volume, DetachVolume(volume_id=volume_id)))
    await asyncio.to_thread(wait_for, lambda: attachment(bed, volume_id) == "busy")
    with pytest.raises(VolumeFailed, match=old.instance_id):
        await run(volumes.attach_volume, AttachVolume(volume_id=volume_id, instance_id=new.instance_id))
    (inside / "still").write_text("the old node writes on")
    old.unmount(volume_id)
    assert (await taking).attached_to is None

    await run(volumes.attach_volume, AttachVolume(volume_id=volume_id, instance_id=new.instance_id))
    there = new.mount(volume_id)
    assert (there / "still").read_text() == "the old node writes on"
    claim_lease(there, 2)
    check_lease(there, 2)
    for late in (check_lease, claim_lease):
        with pytest.raises(Fenced, match="epoch 2"):
            late(there, 1)
    new.unmount(volume_id)


async def test_a_late_writer_writes_nothing_on_a_volume_that_was_taken_by_force(bed: CloudBed) -> None:
    """The plane's own promise; the product never forces."""
    old, new = _two_nodes(bed)
    volumes, volume_id = await volume_on(bed, old)
    writer = LateWriter(old, volume_id)
    try:
        bed.aws.ec2.detach_volume(VolumeId=volume_id, Force=True)
        await asyncio.to_thread(wait_for, lambda: state(bed, volume_id) == "available")
        await run(volumes.attach_volume, AttachVolume(volume_id=volume_id, instance_id=new.instance_id))
        writer.write()
        read = new.run("dd", f"if={new.device(volume_id)}", "bs=1M", "skip=64", "count=1", "iflag=direct")
        assert "late" not in read
    finally:
        writer.end()


async def test_a_late_writer_of_a_dead_node_writes_nothing_on_the_volume_that_went_on(bed: CloudBed) -> None:
    old, new = _two_nodes(bed)
    volumes, volume_id = await volume_on(bed, old)
    writer = LateWriter(old, volume_id)
    try:
        assert writer.write() == "written", "it can, as long as the node lives"
        assert bed.cloud.fleet.end(old.instance_id)
        await run(volumes.detach_volume, DetachVolume(volume_id=volume_id, instance_id=old.instance_id))
        await run(volumes.attach_volume, AttachVolume(volume_id=volume_id, instance_id=new.instance_id))
        new.run("dd", "if=/dev/zero", f"of={new.device(volume_id)}", "bs=1M", "seek=64", "count=1", "oflag=direct")
        said = writer.write()
        read = new.run("dd", f"if={new.device(volume_id)}", "bs=1M", "skip=64", "count=1", "iflag=direct")
        assert "late" not in read, f"the old node wrote on a volume that was no longer its own ({said})"
    finally:
        writer.end()
    assert state(bed, volume_id) == "in-use"


def _two_nodes(bed: CloudBed) -> tuple[Guest, Guest]:
    def ready() -> list[str]:
        nodes = bed.status()["nodes"]
        found = [node["id"] for node in nodes if node["zone"] == ZONES[0] and node["state"] == "ready"]
        return found if len(found) >= 2 else []

    first, second = wait_for(ready)[:2]
    return _guest(bed, first), _guest(bed, second)


def _guest(bed: CloudBed, instance_id: str) -> Guest:
    guest = Guest(bed, ZONES[0])
    guest.instance_id = instance_id
    guest.pid = bed.http.get(f"/_local/nodes/{instance_id}").json()["init_pid"]
    return guest


async def test_an_attach_that_hangs_is_taken_back_and_asked_for_again(bed: CloudBed) -> None:
    guest = Guest(bed, ZONES[0])
    volumes = Volumes(0.02, bed.aws.ec2, stuck_seconds=0.5)
    request = CreateVolume(job_id="job-1", zone=ZONES[0], volume_type="gp3", size_gib=1, token="t")
    volume_id = (await run(volumes.create_volume, request)).volume_id
    bed.http.post("/_local/faults", json={"kind": "stuck-attaching"}).raise_for_status()
    attached = await run(volumes.attach_volume, AttachVolume(volume_id=volume_id, instance_id=guest.instance_id))
    assert attached.attached_to == guest.instance_id and attachment(bed, volume_id) == "attached"
    guest.mount(volume_id, make=True)
    guest.unmount(volume_id)


async def test_a_detach_that_hangs_is_forced_only_where_the_node_let_go(bed: CloudBed) -> None:
    guest = Guest(bed, ZONES[0])
    _, volume_id = await volume_on(bed, guest)
    volumes = Volumes(0.02, bed.aws.ec2, stuck_seconds=0.5)
    inside = guest.mount(volume_id, make=True)
    (inside / "kept").write_text("here")
    bed.http.post("/_local/faults", json={"kind": "stuck-detaching", "times": 0}).raise_for_status()
    with pytest.raises(TimeoutError):
        held = DetachVolume(volume_id=volume_id, instance_id=guest.instance_id)
        await asyncio.wait_for(ActivityEnvironment().run(volumes.detach_volume, held), 2)
    assert attachment(bed, volume_id) is not None, "it may be mounted"
    guest.unmount(volume_id)
    let_go = DetachVolume(volume_id=volume_id, instance_id=guest.instance_id, unmounted=True)
    freed = await run(volumes.detach_volume, let_go)
    assert freed.forced and freed.attached_to is None
    await run(volumes.attach_volume, AttachVolume(volume_id=volume_id, instance_id=guest.instance_id))
    assert (guest.mount(volume_id) / "kept").read_text() == "here"
    guest.unmount(volume_id)
