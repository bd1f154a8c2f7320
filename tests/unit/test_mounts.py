"""The mount table is read as the kernel writes it, and deletion stops at a mount point."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from perdure.domain.errors import JobRootBusy
from perdure.image.mounts import delete_tree, mounts_below, parse_mountinfo, read_mounts
from worker_agent.engine.overlay import find_overlay, overlays_on, parse_overlay

DOCKER = (
    "517 29 0:55 / /var/lib/docker/overlay2/abc/merged rw,relatime shared:236 - overlay overlay "
    "rw,lowerdir=/var/lib/docker/overlay2/l/ONE:/var/lib/docker/overlay2/l/TWO,"
    "upperdir=/var/lib/docker/overlay2/abc/diff,workdir=/var/lib/docker/overlay2/abc/work,xino=off\n"
)


def test_docker_s_overlay() -> None:
    overlay = parse_overlay(parse_mountinfo(DOCKER)[0])
    assert overlay.point == "/var/lib/docker/overlay2/abc/merged"
    assert overlay.lower == ("/var/lib/docker/overlay2/l/ONE", "/var/lib/docker/overlay2/l/TWO")
    assert overlay.upper == "/var/lib/docker/overlay2/abc/diff"


def test_short_names_are_relative_to_the_graph_folder() -> None:
    overlay = parse_overlay(parse_mountinfo(DOCKER.replace("/var/lib/docker/overlay2/l/", "l/"))[0])
    assert overlay.lower == ("/var/lib/docker/overlay2/l/ONE", "/var/lib/docker/overlay2/l/TWO")


def test_layers_that_were_added_one_by_one() -> None:
    line = DOCKER.replace(
        "lowerdir=/var/lib/docker/overlay2/l/ONE:/var/lib/docker/overlay2/l/TWO", "lowerdir+=/a,lowerdir+=/b"
    )
    assert parse_overlay(parse_mountinfo(line)[0]).lower == ("/a", "/b")


def test_escapes_of_the_table_and_of_overlay() -> None:
    options = "lowerdir=/a\\134:b\\040c:/d\\054e,upperdir=/u\\040v,workdir=/w"
    line = f"1 2 0:3 / /with\\040space rw - overlay none rw,{options}\n"
    mount = parse_mountinfo(line)[0]
    assert mount.point == "/with space"
    overlay = parse_overlay(mount)
    assert overlay.lower == ("/a:b c", "/d,e")
    assert overlay.upper == "/u v"


def test_a_line_ends_where_the_kernel_ends_it() -> None:
    """A container may name a folder of its own as it likes, and one table holds what all have mounted."""
    odd = "/a\r/b\x0c/c\x85/d\u2028/\udcff"
    mounts = parse_mountinfo(f"1 2 0:3 / {odd} rw - tmpfs none rw\n4 2 0:5 /x /y rw - tmpfs  rw\n")
    assert [(mount.number, mount.point, mount.root, mount.source) for mount in mounts] == [
        (1, odd, "/", "none"),
        (4, "/y", "/x", ""),
    ]
    assert parse_mountinfo("") == []


def test_the_mounts_of_another_process() -> None:
    assert read_mounts(os.getpid()) == read_mounts() != []
    assert read_mounts(1 << 22) == []


def test_deleting_files_links_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "link").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to("folder")
    delete_tree(tmp_path / "link")
    assert (tmp_path / "folder/deep").is_dir()
    delete_tree(tmp_path / "folder")
    delete_tree(tmp_path / "folder")
    assert [item.name for item in tmp_path.iterdir()] == ["precious"]


@pytest.mark.criu
def test_nothing_is_deleted_through_a_mount(mount_place: Path) -> None:
    """Neither another file system nor a bind mount of the same one."""
    precious, inside = mount_place / "precious", mount_place / "folder" / "deep" / "mount point"
    precious.mkdir()
    (precious / "file").touch()
    inside.mkdir(parents=True)
    (mount_place / "folder" / "first").touch()
    subprocess.run(["mount", "--bind", precious, inside], check=True)
    try:
        assert [mount.point for mount in mounts_below(mount_place / "folder")] == [str(inside)]
        for target in (mount_place / "folder", inside):
            with pytest.raises(JobRootBusy, match="still mounted"):
                delete_tree(target)
        assert (precious / "file").exists() and (mount_place / "folder" / "first").exists()
    finally:
        subprocess.run(["umount", inside], check=True)
    delete_tree(mount_place / "folder")
    assert (precious / "file").exists()


@pytest.mark.criu
def test_overlays_are_found_by_place_and_by_layer(mount_place: Path) -> None:
    for name in ("lower, one: two", "root/layer/upper", "root/layer/work", "merged"):
        (mount_place / name).mkdir(parents=True)
    lower = str(mount_place / "lower, one: two").replace(":", "\\:").replace(",", "\\,")
    options = f"lowerdir={lower},upperdir={mount_place}/root/layer/upper,workdir={mount_place}/root/layer/work"
    assert find_overlay(mount_place / "merged") is None
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", mount_place / "merged"], check=True)
    try:
        found = find_overlay(mount_place / "merged")
        assert found is not None and found.lower == (str(mount_place / "lower, one: two"),)
        assert overlays_on(mount_place / "root") == [found]
        assert overlays_on(mount_place / "roo") == []
    finally:
        subprocess.run(["umount", mount_place / "merged"], check=True)
