"""Which inherited mounts a stack or a node must let go."""

from __future__ import annotations

from pathlib import Path

from localcloud.foreign import foreign_mounts
from localcloud.linux import MountEntry

STACKS = Path("/var/lib/perdure-local")


def entry(point: str, source: str, kind: str) -> MountEntry:
    return MountEntry("7:0", "/", Path(point), kind, source)


def test_what_would_pin_others_goes_deepest_first_and_the_system_stays() -> None:
    table = [
        entry("/", "/dev/vda", "ext4"),
        entry("/proc", "proc", "proc"),
        entry("/dev/shm", "tmpfs", "tmpfs"),
        entry("/home", "/dev/sdb1", "xfs"),
        entry("/run/netns/x", "nsfs", "nsfs"),
        entry("/var/lib/docker/overlay2/x/merged", "overlay", "overlay"),
        entry("/var/lib/perdure-local/other/pool", "/dev/loop3", "xfs"),
        entry("/var/lib/perdure-local/other/pool/x", "tmpfs", "tmpfs"),
        entry("/tmp/volume", "/dev/loop4", "ext4"),
    ]
    assert foreign_mounts(table, STACKS, [Path("/"), Path("/opt/perdure")]) == [
        Path("/tmp/volume"),
        Path("/var/lib/perdure-local/other/pool/x"),
        Path("/var/lib/perdure-local/other/pool"),
        Path("/var/lib/docker/overlay2/x/merged"),
        Path("/run/netns/x"),
    ]


def test_a_mount_that_holds_our_own_code_stays() -> None:
    table = [entry("/", "overlay", "overlay"), entry("/snap/code", "/dev/loop1", "squashfs")]
    assert foreign_mounts(table, STACKS, [Path("/"), Path("/snap/code/perdure")]) == []
