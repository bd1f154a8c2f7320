"""The release alone, on a Debian that has nothing else of ours: installed, a job through a reclaim, and off again.

Installer → dockerd → job → notice → final checkpoint → another instance → installer → restore → uninstall. Nothing of
this repository, no Python and no package index is on the two instances; Docker's configuration is somebody's own.
Temporal is behind its gate, and beside the job runs a container that would like to get in. Under the running job the
agent is replaced by that of the next release; what this one saves, the first release restores on the other instance.
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
from tests.documents.book import filled, told
from tests.integration.docker_bed import _remove_cgroups, tool
from tests.integration.docker_images import IMAGE, image_archive
from tests.integration.temporal_gate import Gate, gate
from tests.patience import PATIENCE
from tests.release.machine import Machine, machine
from tests.release.management import VOLUME, Management, management
from tests.release.successor import successor

pytestmark = [pytest.mark.criu, pytest.mark.timeout(1200)]
_JOB = "i=0; until [ -e /tmp/stop ]; do i=$((i+1)); echo line $i; sleep 0.1; done"
_DEVICE = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol1"
_AGENT = "set -a; . /etc/perdure/agent.env; exec /opt/perdure/current/bin/perdure-agent"
"""What the unit does, for a machine without systemd."""
NEXT = "PERDURE_NEXT_RELEASE"
"""Names the folder of the release that follows, made of other sources; else the same sources get another name."""
_FILES = ("/etc", "/opt", "/usr/local", "/root")
_HELLO = r"'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0'"
"""How every gRPC client begins (RFC 9113, 3.4): a server that speaks to it answers."""
_KNOCK = f"(printf {_HELLO}; sleep 2) | timeout 20 openssl s_client -quiet -alpn h2 -connect 127.0.0.1:$PORT"
_HOSTILE = f"""
knock() {{ {_KNOCK}; }}
found() {{ echo "$1=$(eval "$2" 2>/dev/null | wc -c)"; }}
found inside 'cat /etc/hostname'
found key 'cat /etc/perdure/* /opt/perdure/*.json'
found socket 'ls /run/perdure /var/lib/perdure'
found abstract 'grep "@.*perdure" /proc/net/unix'
found environment 'env | grep -i temporal'
found processes 'cat /proc/*/comm | grep -x -e python3 -e dockerd'
found devices 'cat {_DEVICE} /dev/loop*'
found answer knock
"""
"""Bytes of each thing that a container should not see, but for the first. It is root inside, on the host's network."""


class Instance:
    """One instance from its boot on, with the release at /release."""

    def __init__(self, debian: Machine, cgroup: str, volume: str, image: Path, gate: Gate) -> None:
        self.debian, self.gate = debian, gate
        settings = {"bridge": "none", "iptables": False, "cgroup-parent": cgroup, "storage-driver": "overlay2"}
        settings["exec-opts"] = ["native.cgroupdriver=cgroupfs"]
        debian.at("/etc/docker").mkdir(exist_ok=True)
        debian.at("/etc/docker/daemon.json").write_text(json.dumps(settings))
        debian.at("/etc/ecs").mkdir()
        debian.at("/etc/ecs/ecs.config").write_text("ECS_CLUSTER=genomics\n")
        debian.at(_DEVICE).symlink_to(volume)
        shutil.copy(image, debian.at("/root/image.tar"))
        shutil.copy(gate.configuration, debian.at("/root/temporal.toml"))
        self.before = debian.files(*_FILES)

    def install(self, around: Management) -> None:
        argv = ["sh", "/release/perdure-install", "--from", "/release", "--temporal-config", "/root/temporal.toml"]
        settings = ["--set", f"PERDURE_METADATA_URL=http://127.0.0.1:{around.metadata.port}"]
        self.debian.must(*argv, *settings)
        self.debian.start("agent", "sh", "-c", _AGENT)
        self.debian.start_dockerd()
        self.debian.must("docker", "load", "--input", "/root/image.tar")
        socket = self.debian.at("/run/perdure/agent.sock")
        until(socket.exists, PATIENCE, 0.1, f"the agent listens: {self.debian.log('agent')[-2000:]}")

    def upgrade(self, release: Path) -> None:
        """To the release in that folder, while jobs run. Without systemd the agent is started anew by hand."""
        place = self.debian.at("/root/next")
        shutil.copytree(release, place)
        before = self._agent()
        old = self._version(before)
        line = told("docs/upgrading.md", "sh PLACE/perdure-install --from PLACE")
        self.debian.must(*filled(line, {"PLACE": "/root/next"}).split())
        shutil.rmtree(place)
        self.debian.must("kill", before)
        until(lambda: self.debian.run("readlink", f"/proc/{before}/exe").status, PATIENCE, 0.1, "the old agent ends")
        self.debian.at("/run/perdure/agent.sock").unlink(missing_ok=True)
        self.debian.start("agent", "sh", "-c", _AGENT)
        until(
            self.debian.at("/run/perdure/agent.sock").exists,
            PATIENCE,
            0.1,
            f"the new agent: {self.debian.log('agent')}",
        )
        after = self._agent()
        assert old != self._version(after) == self.debian.must("readlink", "/opt/perdure/current").rpartition("/")[2]

    def _agent(self) -> str:
        return self.debian.must("pgrep", "-f", "[m] worker_agent$")

    def _version(self, pid: str) -> str:
        """Of the running agent, by its program's folder."""
        return self.debian.must("readlink", f"/proc/{pid}/exe").split("/")[4]

    def run(self, job: str, attempt: int) -> str:
        variables = [f"AWS_BATCH_JOB_ID={job}", f"AWS_BATCH_JOB_ATTEMPT={attempt}"]
        options = [word for text in variables for word in ("--env", text)]
        command = ["docker", "run", "--detach", "--network", "host", *options, IMAGE, "sh", "-c", _JOB]
        return self.debian.must(*command).splitlines()[-1]

    def hostile(self) -> dict[str, int]:
        """What a container finds that has no job's identity, but the instance's programs and its network."""
        folders = [word for name in ("/usr", "/lib", "/lib64") for word in ("--volume", f"{name}:{name}:ro")]
        options = ["--rm", "--network", "host", "--env", f"PORT={self.gate.port}", *folders]
        said = self.debian.must("docker", "run", *options, IMAGE, "sh", "-c", _HOSTILE)
        return {name: int(count) for name, _, count in (line.partition("=") for line in said.splitlines()) if count}

    def lines(self, container: str) -> list[str]:
        return self.debian.must("docker", "logs", container).splitlines()

    def more_lines(self, container: str) -> None:
        count = len(self.lines(container)) + 5
        until(
            lambda: len(self.lines(container)) >= count,
            PATIENCE,
            0.2,
            f"more lines: {self.debian.log('agent')[-2000:]}",
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
        subprocess.run(["losetup", "--detach", device], check=False, timeout=PATIENCE)


def _knock_with_the_key(gate: Gate) -> int:
    """Bytes that Temporal answers to who has the instances' certificate."""
    keys = f"-cert {gate.certificates}/instances.crt -key {gate.certificates}/instances.key"
    done = subprocess.run(
        ["sh", "-c", f"{_KNOCK} {keys}"], env={**os.environ, "PORT": str(gate.port)}, capture_output=True
    )
    return len(done.stdout)


def _story(around: Management, gate: Gate, job: str, base: Path, place: Path, release: Path, following: Path) -> None:
    cgroup = f"/perdure-release-{secrets.token_hex(4)}"
    image = image_archive(place / "image.tar")
    with ExitStack() as all_of_it:
        all_of_it.callback(
            lambda: until(lambda: _remove_cgroups(cgroup), PATIENCE, 0.1, f"the cgroup {cgroup} is empty")
        )
        all_of_it.callback(lambda: print("\n".join(around.happened(job))))
        device = all_of_it.enter_context(_volume(place))

        def instance(name: str) -> Instance:
            debian = all_of_it.enter_context(machine(base, place / name, release, own_network=False, cgroup=cgroup))
            return Instance(debian, cgroup, device, image, gate)

        first = instance("first")
        first.install(around)
        assert first.debian.run("sh", "-c", "command -v python3 || command -v mkfs.xfs || command -v nft").said == ""
        container = first.run(job, 1)
        first.more_lines(container)
        assert _knock_with_the_key(gate) > 0
        seen = first.hostile()
        assert seen.pop("inside") > 0 and set(seen.values()) == {0}, seen
        first.upgrade(following)
        first.more_lines(container)
        around.metadata.noticed = True
        until(lambda: around.cloud.volumes[VOLUME].attached_to is None, PATIENCE, 0.2, "the volume is free")
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
        until(lambda: around.cloud.recorded(job).protections == 1, PATIENCE, 0.2, "the restore is recorded")
        around.ended(job)
        second.debian.must("docker", "exec", container, "touch", "/tmp/stop")
        assert second.debian.must("docker", "wait", container) == "0"
        second.debian.must("docker", "rm", container)
        until(lambda: VOLUME in around.cloud.deleted, PATIENCE, 0.2, f"the job is closed: {around.happened(job)}")
        line = told("docs/install.md", "/opt/perdure/current/bin/perdure-install --uninstall")
        said = second.debian.must(*line.split())
        assert "Perdure is gone" in said
        assert second.debian.must("docker", "info", "--format", "{{.DefaultRuntime}}") == "runc"
        left = second.debian.files(*_FILES)
        different = {name for name in left.keys() | second.before.keys() if left.get(name) != second.before.get(name)}
        of_docker = {name for name in different if name.startswith(("/etc/docker/key.json", "/opt/containerd"))}
        assert different == of_docker, "files as they were"


async def test_a_job_outlives_its_instance_by_the_release_alone(
    base: Path, place: Path, release: Path, unpacked: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    job = f"job-{secrets.token_hex(6)}"
    async with management(job) as around:
        with gate(place / "certificates", around.temporal) as found:
            given = os.environ.get(NEXT)
            following = Path(given) if given else await asyncio.to_thread(successor, unpacked, place / "successor")
            await asyncio.to_thread(_story, around, found, job, base, place, release, following)
