"""The unkind EBS: what snapshots move, volumes that are slow at first, what gets stuck, calls that are refused."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud.linux import loop_devices_below, mount_table
from localcloud.stack.pool import free_disks, make_pool
from tests.integration.test_ebs import Guest, MountLauncher, attach, attachment, detach, make_volume, state
from tests.unit.cloud_bed import ZONES, CloudBed, cloud_bed, wait_for

pytestmark = pytest.mark.criu

FOLDER = Path("/var/lib/perdure-local") / f"test-plane-{os.getpid()}"
MIB = 1 << 20
BLOCK = MIB // 2


@pytest.fixture(scope="module")
def shared() -> Iterator[CloudBed]:
    FOLDER.mkdir(parents=True)
    try:
        make_pool(FOLDER)
        with cloud_bed(FOLDER, MountLauncher(), nodes_per_zone=0) as bed:
            yield bed
        assert loop_devices_below(FOLDER / "pool") == {}
        assert not [entry for entry in mount_table() if entry.kind.startswith("fuse") and "lazy" in str(entry.point)]
    finally:
        free_disks(FOLDER)
        shutil.rmtree(FOLDER)


@pytest.fixture
def bed(shared: CloudBed) -> Iterator[CloudBed]:
    shared.refresh()
    yield shared
    told(shared, "POST", "faults/clear")
    told(shared, "POST", "ebs", {"profile": "fast"})


def told(bed: CloudBed, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = bed.http.request(method, f"/_local/{path}", json=body)
    assert answer.is_success, answer.text
    return dict(answer.json())


def snapshot(bed: CloudBed, volume_id: str) -> dict[str, Any]:
    """A completed snapshot, and what it moved."""
    made = str(bed.aws.ec2.create_snapshot(VolumeId=volume_id)["SnapshotId"])
    wait_for(lambda: shown(bed, made)["State"] == "completed")
    return told(bed, "GET", f"snapshots/{made}")


def shown(bed: CloudBed, snapshot_id: str) -> Any:
    return bed.aws.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]


def test_a_snapshot_moves_what_changed_since_the_one_before(bed: CloudBed) -> None:
    guest = Guest(bed, ZONES[0])
    volume_id = make_volume(bed, ZONES[0])
    attach(bed, volume_id, guest)
    device = guest.device(volume_id)

    def write(mib: int, seek: int) -> None:
        guest.run("dd", "if=/dev/urandom", f"of={device}", "bs=1M", f"count={mib}", f"seek={seek}", "oflag=direct")

    write(40, 0)
    first = snapshot(bed, volume_id)
    assert (first["parent"], first["moved_bytes"]) == (None, 40 * MIB)
    write(3, 10)
    write(1, 100)
    second = snapshot(bed, volume_id)
    assert second["parent"] == first["snapshot_id"]
    assert (second["moved_bytes"], second["full_bytes"]) == (4 * MIB, 41 * MIB)
    assert snapshot(bed, volume_id)["moved_bytes"] == 0

    guest.run("dd", "if=/dev/urandom", f"of={device}", "bs=4k", "count=1", "seek=0", "oflag=direct")
    bed.aws.ec2.delete_snapshot(SnapshotId=second["snapshot_id"])
    assert snapshot(bed, volume_id)["moved_bytes"] == BLOCK, "one page dirties a block"
    detach(bed, volume_id)


def test_the_first_snapshot_of_a_moved_volume_builds_on_the_one_that_moved_it(bed: CloudBed) -> None:
    here, there = Guest(bed, ZONES[0]), Guest(bed, ZONES[1])
    volume_id = make_volume(bed, ZONES[0])
    attach(bed, volume_id, here)
    here.run("dd", "if=/dev/urandom", f"of={here.device(volume_id)}", "bs=1M", "count=20", "oflag=direct")
    detach(bed, volume_id)
    moved_by = snapshot(bed, volume_id)
    moved = make_volume(bed, ZONES[1], SnapshotId=moved_by["snapshot_id"])
    bed.aws.ec2.delete_volume(VolumeId=volume_id)
    attach(bed, moved, there)
    there.run("dd", "if=/dev/urandom", f"of={there.device(moved)}", "bs=1M", "count=2", "oflag=direct")
    after = snapshot(bed, moved)
    assert (after["parent"], after["moved_bytes"]) == (moved_by["snapshot_id"], 2 * MIB)
    detach(bed, moved)


def test_a_snapshot_shows_how_far_it_is_and_at_most_five_are_pending(bed: CloudBed) -> None:
    volume_id = make_volume(bed, ZONES[0])
    told(bed, "POST", "ebs", {"rates": {"snapshot": 6.0}})
    made = [str(bed.aws.ec2.create_snapshot(VolumeId=volume_id)["SnapshotId"]) for _ in range(5)]
    with pytest.raises(ClientError) as refusal:
        bed.aws.ec2.create_snapshot(VolumeId=volume_id)
    assert refusal.value.response["Error"]["Code"] == "ConcurrentSnapshotLimitExceeded"
    seen = wait_for(lambda: progress if 0 < (progress := int(shown(bed, made[0])["Progress"][:-1])) < 100 else 0)
    assert shown(bed, made[0])["State"] == "pending" and seen < 100
    wait_for(lambda: all(shown(bed, one)["State"] == "completed" for one in made))
    done = shown(bed, made[0])
    assert done["Progress"] == "100%" and done["CompletionTime"] >= done["StartTime"]


def test_a_volume_from_a_snapshot_is_slow_where_it_is_touched_first(bed: CloudBed) -> None:
    here, there = Guest(bed, ZONES[0]), Guest(bed, ZONES[1])
    volume_id = make_volume(bed, ZONES[0])
    attach(bed, volume_id, here)
    inside = here.mount(volume_id, make=True)
    content = os.urandom(20 * MIB)
    (inside / "data").write_bytes(content)
    here.unmount(volume_id)
    detach(bed, volume_id)
    made = snapshot(bed, volume_id)
    told(bed, "POST", "ebs", {"rates": {"first_touch": 0.05, "fetch_mib_per_second": 100}})
    copy = make_volume(bed, ZONES[1], SnapshotId=made["snapshot_id"])
    bed.aws.ec2.delete_snapshot(SnapshotId=made["snapshot_id"])
    attach(bed, copy, there)
    arrived = there.mount(copy)
    before = told(bed, "GET", f"volumes/{copy}")["initialization"]
    begun = time.monotonic()
    assert (arrived / "data").read_bytes() == content
    slow = time.monotonic() - begun
    after = told(bed, "GET", f"volumes/{copy}")["initialization"]
    assert before["blocks"] == after["blocks"] and before["left"] - after["left"] >= 20 and slow >= 0.1
    # What is written there is as safe as on any volume.
    (arrived / "more").write_text("kept")
    there.unmount(copy)
    detach(bed, copy)
    attach(bed, copy, there)
    again = there.mount(copy)
    assert (again / "more").read_text() == "kept" and (again / "data").read_bytes() == content
    there.unmount(copy)
    bed.aws.ec2.modify_volume(VolumeId=copy, Size=2)
    assert there.run("blockdev", "--getsize64", there.device(copy)) == f"{2 << 30}\n"
    detach(bed, copy)
    bed.aws.ec2.delete_volume(VolumeId=copy)


def test_an_initialization_rate_fills_a_volume_without_touching_it(bed: CloudBed) -> None:
    there = Guest(bed, ZONES[0])
    volume_id = make_volume(bed, ZONES[0])
    attach(bed, volume_id, there)
    there.run("dd", "if=/dev/urandom", f"of={there.device(volume_id)}", "bs=1M", "count=30", "oflag=direct")
    made = snapshot(bed, volume_id)
    detach(bed, volume_id)
    told(bed, "POST", "ebs", {"rates": {"first_touch": 30, "fetch_mib_per_second": 100}})
    copy = make_volume(bed, ZONES[0], SnapshotId=made["snapshot_id"], VolumeInitializationRate=300)
    attach(bed, copy, there)
    wait_for(lambda: told(bed, "GET", f"volumes/{copy}")["initialization"]["left"] == 0)
    detach(bed, copy)
    with pytest.raises(ClientError) as refusal:
        make_volume(bed, ZONES[0], VolumeInitializationRate=300)
    assert refusal.value.response["Error"]["Code"] == "InvalidParameterValue"


def test_what_is_stuck_stays_so_until_it_is_cleared_or_taken_by_force(bed: CloudBed) -> None:
    guest = Guest(bed, ZONES[0])
    volume_id = make_volume(bed, ZONES[0])
    told(bed, "POST", "faults", {"kind": "stuck-attaching", "volume_id": volume_id})
    bed.aws.ec2.attach_volume(VolumeId=volume_id, InstanceId=guest.instance_id, Device="/dev/sdf")
    time.sleep(0.5)
    assert attachment(bed, volume_id) == "attaching"
    told(bed, "POST", "faults/clear")
    wait_for(lambda: attachment(bed, volume_id) == "attached")
    told(bed, "POST", "faults", {"kind": "stuck-detaching", "volume_id": volume_id})
    bed.aws.ec2.detach_volume(VolumeId=volume_id)
    time.sleep(0.5)
    assert attachment(bed, volume_id) == "detaching"
    bed.aws.ec2.detach_volume(VolumeId=volume_id, Force=True)
    wait_for(lambda: state(bed, volume_id) == "available")
    told(bed, "POST", "faults", {"kind": "stuck-attaching", "volume_id": volume_id})
    bed.aws.ec2.attach_volume(VolumeId=volume_id, InstanceId=guest.instance_id, Device="/dev/sdf")
    bed.aws.ec2.detach_volume(VolumeId=volume_id)
    wait_for(lambda: state(bed, volume_id) == "available")
    told(bed, "POST", "faults/clear")
    attach(bed, volume_id, guest)
    detach(bed, volume_id)


def test_a_detach_from_a_dying_host_waits_for_its_end(bed: CloudBed) -> None:
    guest = Guest(bed, ZONES[0])
    volume_id = make_volume(bed, ZONES[0])
    attach(bed, volume_id, guest)
    told(bed, "POST", "ebs", {"rates": {"dead_host_release": 3.0}})
    begun = time.monotonic()
    assert bed.cloud.fleet.end(guest.instance_id)
    bed.aws.ec2.detach_volume(VolumeId=volume_id)
    wait_for(lambda: state(bed, volume_id) == "available")
    assert time.monotonic() - begun >= 3, "an ordinary detach takes a twentieth of a second here"


def test_snapshots_and_volumes_that_fail(bed: CloudBed) -> None:
    volume_id = make_volume(bed, ZONES[0])
    told(bed, "POST", "faults", {"kind": "snapshot-error"})
    failed = str(bed.aws.ec2.create_snapshot(VolumeId=volume_id)["SnapshotId"])
    wait_for(lambda: shown(bed, failed)["State"] == "error")
    told(bed, "POST", "faults", {"kind": "volume-error"})
    broken = str(bed.aws.ec2.create_volume(AvailabilityZone=ZONES[0], Size=1)["VolumeId"])
    wait_for(lambda: state(bed, broken) == "error")
    told(bed, "POST", "faults", {"kind": "no-volumes", "times": 0})
    with pytest.raises(ClientError) as refusal:
        bed.aws.ec2.create_volume(AvailabilityZone=ZONES[0], Size=1)
    assert refusal.value.response["Error"]["Code"] == "InsufficientVolumeCapacity"


def test_throttled_calls_are_refused_and_counted(bed: CloudBed) -> None:
    volume_id = make_volume(bed, ZONES[0])
    told(bed, "POST", "faults", {"kind": "throttle", "action": "CreateSnapshot", "times": 0})
    with pytest.raises(ClientError) as refusal:
        bed.aws.ec2.create_snapshot(VolumeId=volume_id)
    assert refusal.value.response["Error"]["Code"] == "RequestLimitExceeded"
    assert told(bed, "GET", "ebs")["throttled"]["CreateSnapshot"] >= 1
    told(bed, "POST", "faults/clear")
    snapshot(bed, volume_id)
