"""The release's programs on Debian 11, whose glibc (2.31) is older than Amazon Linux 2023's (2.34) and Ubuntu 22.04's
(2.35): they bring their own, and load nothing of the machine's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.release.machine import Machine, debian_base, machine

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(1200)]
_LOAD = """
import os, worker_agent.__main__, temporalio.bridge.temporal_sdk_bridge, blake3, pydantic_core, ssl, ctypes, lzma
loaded = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
print(os.confstr("CS_GNU_LIBC_VERSION"), sorted(name for name in loaded if not name.startswith("/opt/perdure/")))
"""


@pytest.fixture
def debian(place: Path, release: Path) -> Iterator[Machine]:
    """With the archive unpacked by hand: Docker is missing, so the installer would refuse."""
    with machine(debian_base("bullseye", ""), place / "machine", release) as made:
        made.must(
            "sh",
            "-c",
            "mkdir -p /opt/perdure/versions; tar -xzf /release/perdure-worker-*.tar.gz -C /opt/perdure/versions",
        )
        made.must("sh", "-c", "cd /opt/perdure && ln -s versions/* current")
        yield made


def test_its_programs_run(debian: Machine) -> None:
    assert debian.must("sh", "-c", "ls /lib/*/libc-2.31.so")
    assert debian.must("/opt/perdure/current/bin/python3", "-I", "-c", _LOAD) == "glibc 2.36 []"
    assert debian.must("/opt/perdure/current/criu/bin/criu", "check") == "Looks good."
    debian.must("truncate", "-s", "400M", "/volume.img")
    debian.must("/opt/perdure/current/tools/mkfs.xfs", "-q", "-m", "reflink=1", "/volume.img")
    assert debian.must("/opt/perdure/current/tools/blkid", "-p", "-o", "value", "-s", "TYPE", "/volume.img") == "xfs"
    assert "nftables v1" in debian.must("/opt/perdure/current/tools/nft", "--version")


def test_the_installer_says_what_is_missing(debian: Machine) -> None:
    done = debian.run("sh", "/release/perdure-install", "--check")
    assert done.status == 1 and "Docker is missing" in done.said and "the program curl is missing" in done.said
