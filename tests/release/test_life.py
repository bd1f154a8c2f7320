"""The release alone, on a Debian that has nothing else of ours: installed, a job through a reclaim, and off again.

Installer → dockerd → job → notice → final checkpoint → another instance → installer → restore → uninstall. Nothing of
this repository, no Python and no package index is on the two instances; Docker's configuration is somebody's own.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from perdure.waiting import until
from tests.integration.docker_bed import _remove_cgroups, tool
from tests.integration.docker_images import IMAGE, image_archive
from tests.release.machine import Machine, machine
from tests.release.management import VOLUME, Management, management

pytestmark = [pytest.mark.criu, pytest.mark.timeout(1200)]
LIMIT = 120.0
_JOB = "i=0; until [ -e /tmp/stop ]; do i=$((i+1)); echo line $i; sleep 0.1; done"
_DEVICE = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol1"
_AGENT = "set -a; . /etc/perdure/agent.env; exec /opt/perdure/current/bin/perdure-agent"
"""What the unit does, for a machine without systemd."""
_FILES = ("/etc", "/opt", "/usr/local", "/root")


class Instance:
    """One instance from its boot on, with the release at /release."""

    def __init__(self, debian: Machine, cgroup: str, volume: str, image: Path) -> None:
        self.debian = debian
        settings = {"bridge": "none", "iptables": False, "cgroup-parent": cgroup, "storage-driver": "overlay2"}
        settings["exec-opts"] = ["native.cgroupdriver=cgroupfs"]
        debian.at("/etc/docker").mkdir(exist_ok=True)
        debian.at("/etc/docker/daemon.json").write_text(json.dumps(settings))
        debian.at("/etc/ecs").mkdir()
        debian.at("/etc/ecs/ecs.config").write_text("ECS_CLUSTER=genomics\n")
        debian.at(_DEVICE).symlink_to(volume)
        shutil.copy(image, debian.at("/root/image.tar"))
        self.before = debian.files(*_FILES)

    def install(self, around: Management) -> None:
        argv = ["sh", "/release/perdure-install", "--from", "/release", "--temporal", around.temporal]
        settings = ["--set", f"PERDURE_METADATA_URL=http://127.0.0.1:{around.metadata.port}"]
        self.debian.must(*argv, *settings)
        self.debian.start("agent", "sh", "-c", _AGENT)
        self.debian.start_dockerd()
        self.debian.must("docker", "load", "--input", "/root/image.tar")
        socket = self.debian.at("/run/perdure/agent.sock")
        until(socket.exists, LIMIT, 0.1, f"the agent listens: {self.debian.log('agent')[-2000:]}")

    def run(self, job: str, attempt: int) -> str:
        variables = [f"AWS_BATCH_JOB_ID={job}", f"AWS_BATCH_JOB_ATTEMPT={attempt}"]
        options = [word for text in variables for word in ("--env", text)]
        command = ["docker", "run", "--detach", "--network", "host", *options, IMAGE, "sh", "-c", _JOB]
        return self.debian.must(*command).splitlines()[-1]

    def lines(self, container: str) -> list[str]:
        return self.debian.must("docker", "logs", container).splitlines()

    def more_lines(self, container: str) -> None:
        count = len(self.lines(container)) + 5
        until(
            lambda: len(self.lines(container)) >= count, LIMIT, 0.2, f"more lines: {self.debian.log('agent')[-2000:]}"
        )


@contextmanager
def _volume(place: Path) -> Iterator[str]:
    """A loop device, as an EBS volume of the job."""
    image = place / "volume.img"
    tool("truncate", "-s", "512M", image)
    device = tool("losetup", "--find", "--show", image)
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=False, timeout=60)


def _story(around: Management, job: str, base: Path, place: Path, release: Path) -> None:
    cgroup = f"/perdure-release-{secrets.token_hex(4)}"
    image = image_archive(place / "image.tar")
    with ExitStack() as all_of_it:
        all_of_it.callback(lambda: until(lambda: _remove_cgroups(cgroup), LIMIT, 0.1, f"the cgroup {cgroup} is empty"))
        device = all_of_it.enter_context(_volume(place))

        def instance(name: str) -> Instance:
            debian = all_of_it.enter_context(machine(base, place / name, release, own_network=False, cgroup=cgroup))
            return Instance(debian, cgroup, device, image)

        first = instance("first")
        first.install(around)
        assert first.debian.run("sh", "-c", "command -v python3 || command -v mkfs.xfs || command -v nft").said == ""
        container = first.run(job, 1)
        first.more_lines(container)
        around.metadata.noticed = True
        until(lambda: around.cloud.volumes[VOLUME].attached_to is None, LIMIT, 0.2, "the volume is free")
        saved = first.lines(container)
        first.debian.end(cgroup)
        around.reclaimed(job, "i-0000000000000002")

        second = instance("second")
        second.install(around)
        container = second.run(job, 2)
        second.more_lines(container)
        lines = [*saved, *second.lines(container)]
        numbers = [int(line.split()[1]) for line in lines]
        assert len(saved) > 5 and numbers == list(range(1, len(numbers) + 1)), "each line once, over both instances"
        print("\n".join(around.happened(job)))
        assert around.cloud.recorded(job).protections == 1, around.happened(job)
        around.ended(job)
        second.debian.must("docker", "exec", container, "touch", "/tmp/stop")
        assert second.debian.must("docker", "wait", container) == "0"
        second.debian.must("docker", "rm", container)
        until(lambda: VOLUME in around.cloud.deleted, LIMIT, 0.2, f"the job is closed: {around.happened(job)}")
        said = second.debian.must("/opt/perdure/current/bin/perdure-install", "--uninstall")
        assert "Perdure is gone" in said
        assert second.debian.must("docker", "info", "--format", "{{.DefaultRuntime}}") == "runc"
        left = second.debian.files(*_FILES)
        different = {name for name in left.keys() | second.before.keys() if left.get(name) != second.before.get(name)}
        of_docker = {name for name in different if name.startswith(("/etc/docker/key.json", "/opt/containerd"))}
        assert different == of_docker, "files as they were"


async def test_a_job_outlives_its_instance_by_the_release_alone(base: Path, place: Path, release: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    job = f"job-{secrets.token_hex(6)}"
    async with management(job) as around:
        await asyncio.to_thread(_story, around, job, base, place, release)
