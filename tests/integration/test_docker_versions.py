"""What depends on Docker's version, on each Docker that can be had: networks, a job that ends the moment it is
restored, and a reclaim seen through `docker logs`, `cp` and `diff`.

The jobs of one Docker share a bed: all start, are checkpointed and lose their node at once; each test then brings its
own back on the next node. A job whose first half failed fails its own test only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.integration.docker_bed import Bed, docker_bed
from tests.integration.docker_versions import HOST, NEWER, TRIXIE, DockerRelease, programs_or_skip, versions_of

pytestmark = [pytest.mark.criu]
ROUNDS = 3
"""Times that a job is restored to end at once: a race lost now and then shall show."""

HOLD = "sleep 0.1; while [ $i -eq 20 ] && [ ! -e /signal/go ]; do sleep 0.1; done"
"""After a third of its lines a job waits until it is on its second node."""
ECHO = f"""
nc -ll -p 5599 -e cat &
until nc 127.0.0.1 5599 </dev/null; do sleep 0.1; done
i=0
while [ $i -lt 60 ]; do i=$((i+1)); echo $i; {HOLD}; done | nc 127.0.0.1 5599
exit 7
"""
"""Each line goes through a TCP connection on loopback before it is printed."""
COUNTS = f"i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo $i; {HOLD}; done; exit 7"
EXITS = "echo ready; while [ ! -e /signal/go ]; do :; done; exit 7"
RUNS_OUT = """
x=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
for i in $(seq 17); do x=$x$x; done
echo ready; while [ ! -e /signal/go ]; do :; done
while :; do x=$x$x; done
"""
"""4 MiB doubled until the limit of memory ends it."""
EXAMINED = "while [ $i -eq 40 ] && [ ! -e /job/by-exec ]; do sleep 0.1; done"
WRITES = f"""
mkdir /job; echo base >/job/state; rm /etc/perdure-test
i=0
while [ $i -lt 60 ]; do i=$((i+1)); echo line $i; echo $i >>/job/state; {HOLD}; {EXAMINED}; done
cat /job/cp-in
exit 7
"""


@dataclass
class Job:
    """One job of a bed: how it is run, and what became of its first half."""

    script: str
    options: list[str]
    ready: str
    job_id: str = ""
    container: str = ""
    failure: Exception | None = None


@dataclass
class Story:
    """A node with a release's Docker, to which jobs come back."""

    release: DockerRelease
    bed: Bed
    jobs: dict[str, Job] = field(default_factory=dict)

    def first_half(self, name: str) -> None:
        job = self.jobs[name]
        try:
            job.job_id = self.bed.new_job()
            job.container = self.bed.run(job.job_id, "sh", "-c", job.script, options=job.options)
            self.bed.until(lambda: self._is_ready(job), f"{name} says {job.ready}")
            if name == "writes":
                copied = self.bed.folder / "cp-in"
                copied.write_text("copied in\n")
                self.bed.docker("cp", copied, f"{job.container}:/job/cp-in")
            self.bed.checkpoint(job.job_id)
        except Exception as problem:  # raised again by this job's own test
            job.failure = problem

    def _is_ready(self, job: Job) -> bool:
        said = self.bed.logs(job.container)
        assert self.bed.inspect(job.container, ".State.Status") == "running", said
        return job.ready in said.split()

    def come_back(self, name: str) -> str:
        """Run the job's next container; its id. It has to be a restore."""
        job = self.jobs[name]
        if job.failure is not None:
            raise job.failure
        container = self.bed.run(job.job_id, "sh", "-c", job.script, options=job.options, attempt=2)
        assert self.bed.restored(job.job_id) == 1, self.bed.remarks(job.job_id)
        return container


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(release, id=str(release), marks=[] if release in (HOST, TRIXIE) else [pytest.mark.matrix])
        for release in (HOST, *NEWER)
    ],
)
def release(request: pytest.FixtureRequest) -> DockerRelease:
    chosen: DockerRelease = request.param
    return chosen


@pytest.fixture(scope="module")
def story(release: DockerRelease) -> Iterator[Story]:
    with docker_bed(programs=programs_or_skip(release), storage=release.storage) as bed:
        told = Story(release, bed)
        (bed.folder / "docker-init").symlink_to("/usr/bin/tini-static")
        bed.dockerd_options = ["--init-path", str(bed.folder / "docker-init")]
        signal = bed.folder / "signal"
        signal.mkdir()
        told_to = ["--volume", f"{signal}:/signal:ro"]
        small = [*told_to, "--memory", "24m", "--memory-swap", "24m"]
        told.jobs = {
            "writes": Job(WRITES, told_to, "5"),
            "init": Job(COUNTS, [*told_to, "--init"], "5"),
            **{network: Job(ECHO, [*told_to, "--network", network], "5") for network in ("host", "bridge", "none")},
            "exits": Job(EXITS, small, "ready"),
            "runs out": Job(RUNS_OUT, small, "ready"),
        }
        bed.new_node()
        for name in told.jobs:
            told.first_half(name)
        bed.power_loss()
        (signal / "go").touch()
        bed.new_node()
        yield told


@pytest.fixture(autouse=True)
def versions(request: pytest.FixtureRequest, story: Story) -> None:
    """What the column of the compatibility table is headed with."""
    request.node.user_properties.append(("versions", versions_of(story.bed)))


def numbers(text: str) -> list[int]:
    return [int(line.split()[-1]) for line in text.splitlines() if line.split()[-1].isdigit()]


@pytest.mark.docker("any")
@pytest.mark.parametrize(
    "network",
    [
        pytest.param(network, marks=pytest.mark.row("Network", f"--network {network}, loopback TCP connections"))
        for network in ("host", "bridge", "none")
    ],
)
def test_connections_inside_the_container_live_on(story: Story, network: str) -> None:
    container = story.come_back(network)
    assert story.bed.wait(container) == 7
    lines = numbers(story.bed.logs(container))
    assert lines == list(range(lines[0], 61))
    assert 5 < lines[0] < 60, "neither lost nor begun anew"


@pytest.mark.docker("any")
@pytest.mark.row("Limits and options", "--init whose program is a symbolic link, as Debian's docker-init is")
def test_init_may_be_a_link(story: Story) -> None:
    container = story.come_back("init")
    assert story.bed.wait(container) == 7
    lines = numbers(story.bed.logs(container))
    assert lines == list(range(lines[0], 61)) and lines[0] > 5


@pytest.mark.docker("any")
@pytest.mark.row("Docker commands", "a job that exits within 5 ms of being restored")
def test_a_job_may_exit_the_moment_it_is_restored(story: Story) -> None:
    for _ in range(ROUNDS):
        container = story.come_back("exits")
        assert story.bed.wait(container) == 7
        assert story.bed.inspect(container, ".State.ExitCode") == "7"
        assert story.bed.inspect(container, ".State.OOMKilled") == "false"
        assert story.bed.inspect(container, ".State.Error") == ""
        story.bed.docker("rm", container)


@pytest.mark.docker("any")
@pytest.mark.row("Docker commands", "a job that runs out of memory within 5 ms of being restored")
def test_a_job_may_run_out_of_memory_the_moment_it_is_restored(story: Story) -> None:
    for _ in range(ROUNDS):
        container = story.come_back("runs out")
        assert story.bed.wait(container) == 137
        assert story.bed.inspect(container, ".State.ExitCode") == "137"
        assert story.bed.inspect(container, ".State.OOMKilled") == "true"
        story.bed.docker("rm", container)


@pytest.mark.docker("any")
@pytest.mark.row("Docker commands", "logs, cp in and out, diff and rm across a reclaim")
def test_logs_cp_and_diff_are_those_of_an_uninterrupted_run(story: Story, tmp_path: Path) -> None:
    bed = story.bed
    container = story.come_back("writes")
    bed.docker("exec", container, "sh", "-c", "echo by exec >/job/by-exec")
    bed.docker("cp", f"{container}:/job/by-exec", tmp_path / "by-exec")
    assert (tmp_path / "by-exec").read_text() == "by exec\n"
    assert bed.wait(container) == 7
    logs = bed.logs(container)
    lines = numbers(logs)
    assert lines == list(range(lines[0], 61))
    assert logs.endswith("line 60\ncopied in\n")
    bed.docker("cp", f"{container}:/job/state", tmp_path / "state")
    assert (tmp_path / "state").read_text() == "base\n" + "".join(f"{n}\n" for n in range(1, 61))
    changes = set(bed.docker("diff", container).stdout.split("\n"))
    assert {"A /job", "A /job/state", "A /job/cp-in", "A /job/by-exec", "D /etc/perdure-test"} <= changes
    bed.docker("rm", container)
