"""EBS moves real bytes: loop devices, reflink copies, and what a power loss leaves. Nodes are mount namespaces."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from localcloud.aws.ebs import link_name
from localcloud.linux import loop_devices_below, mount_table, run
from localcloud.node_link import NodeHandle, NodeSpec
from localcloud.stack.pool import free_disks, make_pool
from tests.unit.cloud_bed import ZONES, CloudBed, PlayedLauncher, cloud_bed, wait_for

pytestmark = pytest.mark.criu

FOLDER = Path("/var/lib/perdure-local") / f"test-ebs-{os.getpid()}"
INIT = """
# Let go of every disk mounted outside, lest this namespace keeps it from being unmounted, and of overlays, which lie on
# some.
awk '$1 ~ "^/dev/loop" || ($3 == "overlay" && $2 != "/") {print $2}' /proc/self/mounts | tac | xargs -r -n1 umount -l
mount -t tmpfs none /dev/disk && mkdir -p /dev/disk/by-id && mount -t tmpfs none /run && echo up && sleep inf
"""


class MountLauncher(PlayedLauncher):
    """Played nodes with a real mount namespace, each held by one process."""

    def __init__(self) -> None:
        super().__init__()
        self.inits: dict[str, subprocess.Popen[str]] = {}

    def start_init(self, spec: NodeSpec) -> int:
        init = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", INIT],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert init.stdout is not None and init.stdout.readline() == "up\n"
        self.inits[spec.instance_id] = init
        return init.pid

    def power_loss(self, node: NodeHandle, cut_disks: Callable[[], None] = lambda: None) -> None:
        super().power_loss(node, cut_disks)
        init = self.inits[node.instance_id]
        os.killpg(init.pid, signal.SIGKILL)
        init.communicate()


class Guest:
    """Someone on a node."""

    def __init__(self, bed: CloudBed, zone: str) -> None:
        self.instance_id = bed.node_in(zone).spec.instance_id
        self.pid: int = bed.http.get(f"/_local/nodes/{self.instance_id}").json()["init_pid"]

    def run(self, *argv: str) -> str:
        return run(["nsenter", "--target", str(self.pid), "--mount", *argv])

    def device(self, volume_id: str) -> str:
        return f"/dev/disk/by-id/{link_name(volume_id)}"

    def mount(self, volume_id: str, *, make: bool = False) -> Path:
        """Mount the volume in the node; where, as seen from outside."""
        if make:
            self.run("mkfs.xfs", "-q", self.device(volume_id))
        self.run("mkdir", "-p", f"/run/{volume_id}")
        self.run("mount", self.device(volume_id), f"/run/{volume_id}")
        return Path(f"/proc/{self.pid}/root/run/{volume_id}")

    def unmount(self, volume_id: str) -> None:
        self.run("umount", f"/run/{volume_id}")


@pytest.fixture(scope="module")
def shared() -> Iterator[CloudBed]:
    FOLDER.mkdir(parents=True)
    try:
        make_pool(FOLDER)
        with cloud_bed(FOLDER, MountLauncher(), nodes_per_zone=0) as bed:
            yield bed
        assert loop_devices_below(FOLDER / "pool") == {}
    finally:
        free_disks(FOLDER)
        shutil.rmtree(FOLDER)


@pytest.fixture
def bed(shared: CloudBed) -> CloudBed:
    shared.refresh()
    return shared


def make_volume(bed: CloudBed, zone: str, **request: Any) -> str:
    volume_id = bed.aws.ec2.create_volume(AvailabilityZone=zone, **{"Size": 1, **request})["VolumeId"]
    wait_for(lambda: state(bed, volume_id) == "available")
    return volume_id


def attach(bed: CloudBed, volume_id: str, guest: Guest) -> None:
    bed.aws.ec2.attach_volume(VolumeId=volume_id, InstanceId=guest.instance_id, Device="/dev/sdf")
    wait_for(lambda: attachment(bed, volume_id) == "attached")


def detach(bed: CloudBed, volume_id: str) -> None:
    bed.aws.ec2.detach_volume(VolumeId=volume_id)
    wait_for(lambda: state(bed, volume_id) == "available")


def state(bed: CloudBed, volume_id: str) -> str:
    return bed.aws.ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]["State"]


def attachment(bed: CloudBed, volume_id: str) -> str | None:
    attachments = bed.aws.ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]["Attachments"]
    return attachments[0]["State"] if attachments else None


def test_an_attached_volume_is_a_device_of_its_node_alone(bed: CloudBed) -> None:
    guest, other = Guest(bed, ZONES[0]), Guest(bed, ZONES[1])
    volume_id = make_volume(bed, ZONES[0])
    attach(bed, volume_id, guest)
    assert guest.run("blockdev", "--getsize64", guest.device(volume_id)) == f"{1024**3}\n"
    assert other.run("ls", "/dev/disk/by-id") == ""
    assert not Path(guest.device(volume_id)).is_symlink()
    device = bed.http.get(f"/_local/volumes/{volume_id}").json()["device"]
    bed.aws.ec2.modify_volume(VolumeId=volume_id, Size=2)
    assert guest.run("blockdev", "--getsize64", guest.device(volume_id)) == f"{2 * 1024**3}\n"
    detach(bed, volume_id)
    assert guest.run("ls", "/dev/disk/by-id") == ""
    assert Path(device) not in loop_devices_below(FOLDER)


def test_a_mounted_volume_stays_busy_until_it_is_unmounted(bed: CloudBed) -> None:
    guest = Guest(bed, ZONES[0])
    volume_id = make_volume(bed, ZONES[0])
    attach(bed, volume_id, guest)
    inside = guest.mount(volume_id, make=True)
    bed.aws.ec2.detach_volume(VolumeId=volume_id)
    wait_for(lambda: attachment(bed, volume_id) == "busy")
    (inside / "still").write_text("here")
    assert state(bed, volume_id) == "in-use"
    guest.unmount(volume_id)
    wait_for(lambda: state(bed, volume_id) == "available")


def test_bytes_move_to_another_zone_through_a_snapshot(bed: CloudBed) -> None:
    here, there = Guest(bed, ZONES[0]), Guest(bed, ZONES[1])
    volume_id = make_volume(bed, ZONES[0])
    attach(bed, volume_id, here)
    inside = here.mount(volume_id, make=True)
    content = os.urandom(3_000_000)
    (inside / "data").write_bytes(content)
    here.unmount(volume_id)
    detach(bed, volume_id)

    snapshot = bed.aws.ec2.create_snapshot(VolumeId=volume_id)
    assert snapshot["State"] == "pending"
    snapshot_id = snapshot["SnapshotId"]
    bed.aws.ec2.get_waiter("snapshot_completed").wait(SnapshotIds=[snapshot_id], WaiterConfig={"Delay": 1})
    # What is written after the snapshot is not in it.
    attach(bed, volume_id, here)
    (here.mount(volume_id) / "late").write_text("not in the snapshot")
    here.unmount(volume_id)
    detach(bed, volume_id)

    moved = bed.aws.ec2.create_volume(AvailabilityZone=ZONES[1], SnapshotId=snapshot_id)["VolumeId"]
    bed.aws.ec2.delete_snapshot(SnapshotId=snapshot_id)
    bed.aws.ec2.delete_volume(VolumeId=volume_id)
    wait_for(lambda: state(bed, moved) == "available")
    attach(bed, moved, there)
    arrived = there.mount(moved)
    assert (arrived / "data").read_bytes() == content
    assert not (arrived / "late").exists()
    there.unmount(moved)
    old = bed.http.get(f"/_local/volumes/{volume_id}").json()
    assert old["deleted"] and Path(old["backing_file"]).stat().st_size == 1024**3


def test_after_a_power_loss_only_what_was_synced_is_there(bed: CloudBed) -> None:
    guest = Guest(bed, ZONES[0])
    volume_id = make_volume(bed, ZONES[0])
    attach(bed, volume_id, guest)
    inside = guest.mount(volume_id, make=True)
    (inside / "synced").write_text("kept")
    guest.run("sync", "-f", f"/run/{volume_id}")
    (inside / "not synced").write_text("lost")

    told = bed.http.post("/_local/reclaim", json={"node_id": guest.instance_id, "no_notice": True, "wait": True})
    assert told.status_code == 200, told.text
    wait_for(lambda: state(bed, volume_id) == "available")
    bed.http.post("/_local/nodes", json={"zone": ZONES[0]}).raise_for_status()
    after = Guest(bed, ZONES[0])
    assert after.instance_id != guest.instance_id
    attach(bed, volume_id, after)
    left = after.mount(volume_id)
    assert sorted(path.name for path in left.iterdir()) == ["synced"]
    assert (left / "synced").read_text() == "kept"
    after.unmount(volume_id)


def test_a_dead_nodes_devices_are_free_at_once_and_its_volumes_in_the_end(bed: CloudBed) -> None:
    guest = Guest(bed, ZONES[0])
    volume_id = make_volume(bed, ZONES[0])
    attach(bed, volume_id, guest)
    assert bed.cloud.fleet.end(guest.instance_id)
    assert loop_devices_below(FOLDER / "pool") == {}
    wait_for(lambda: state(bed, volume_id) == "available")


def test_a_forced_detach_takes_a_mounted_volume_from_a_living_node(bed: CloudBed) -> None:
    guest = Guest(bed, ZONES[0])
    volume_id = make_volume(bed, ZONES[0])
    attach(bed, volume_id, guest)
    inside = guest.mount(volume_id, make=True)
    guest.run("sync", "-f", f"/run/{volume_id}")
    bed.aws.ec2.detach_volume(VolumeId=volume_id, Force=True)
    wait_for(lambda: state(bed, volume_id) == "available")
    with pytest.raises(OSError):
        (inside / "more").write_text("x")
    guest.unmount(volume_id)


def test_a_snapshot_of_a_volume_in_use_is_crash_consistent(bed: CloudBed) -> None:
    guest = Guest(bed, ZONES[0])
    volume_id = make_volume(bed, ZONES[0])
    attach(bed, volume_id, guest)
    inside = guest.mount(volume_id, make=True)
    (inside / "synced").write_text("kept")
    guest.run("sync", "-f", f"/run/{volume_id}")
    snapshot_id = bed.aws.ec2.create_snapshot(VolumeId=volume_id)["SnapshotId"]
    wait_for(lambda: bed.aws.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]["State"] == "completed")
    guest.unmount(volume_id)
    detach(bed, volume_id)
    copy = make_volume(bed, ZONES[0], SnapshotId=snapshot_id)
    attach(bed, copy, guest)
    assert (guest.mount(copy) / "synced").read_text() == "kept"
    guest.unmount(copy)


def test_nothing_of_a_node_is_mounted_on_the_host(bed: CloudBed) -> None:
    guest = Guest(bed, ZONES[0])
    volume_id = make_volume(bed, ZONES[0])
    attach(bed, volume_id, guest)
    guest.mount(volume_id, make=True)
    device = bed.http.get(f"/_local/volumes/{volume_id}").json()["device"]
    assert device not in {entry.source for entry in mount_table()}
