"""Every command and option of Docker that people use on a job's container, on one that was restored on another node.

All jobs are started on one node, checkpointed and lost with it at once; the next node brings each back when its test
asks for it. A job whose first half failed fails its own tests only. CI runs this on the machine's own Docker, the
others are for `make matrix`.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from perdure.image.manifest import read_head
from tests.integration.docker_bed import Bed, CheckpointRefused, docker_bed
from tests.integration.docker_images import IMAGE
from tests.integration.docker_versions import HOST, NEWER, DockerRelease, programs_or_skip, versions_of
from tests.patience import PATIENCE

pytestmark = [pytest.mark.criu, pytest.mark.docker("any")]

COUNT = """
trap 'echo asked to end; exit 5' TERM
trap 'echo told' USR1
echo to stderr >&2
i=0
while [ ! -e /tmp/enough ]; do i=$((i+1)); echo $i; echo $i >>/root/count; sleep 0.1; done
echo enough
exit 7
"""
"""Counts on stdout and in a file; ends when asked to."""
HOLD = "x=$(head -c 6000000 /dev/urandom | base64); "
"""Holds 8 MiB in which no two pages are the same."""
HOARD = "echo ready; while [ ! -e /tmp/enough ]; do sleep 0.1; done; x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"
SERVE = "while :; do echo 5 >>/root/count; echo answer | nc -l -p 8080; done & " + COUNT
FILES = """
for place in $PLACES; do echo before >$place/file; mkdir $place/folder; done
exec 3>>/db/open 4>/shared/open
echo open >&3; echo open >&4
"""
LATER = "for place in $PLACES; do echo after >$place/file; rmdir $place/folder; done; " + (
    "for open in /db/open /shared/open; do echo more >>$open; done"
)
VOLUME_IMAGE = "perdure-test-volume:1"
_READ_ONLY = {"/jobs": Path(__file__).parent / "matrix/jobs", "/usr": "/usr", "/lib": "/lib", "/lib64": "/lib64"}
PYTHON = [word for place, source in _READ_ONLY.items() for word in ("--volume", f"{source}:{place}:ro")]
"""The machine's Python, and jobs of the matrix."""


@dataclass
class Job:
    """One job of the bed, and its container on each of the two nodes."""

    script: str = COUNT
    options: list[str] = field(default_factory=list)
    image: str = IMAGE
    plan: dict[str, object] = field(default_factory=dict)
    """Fields of AttachReply."""
    checkpoints: int = 1
    """That are taken of it on the first node."""
    before: str = ""
    """A docker command for the container before its checkpoint."""
    after: str = ""
    """What a shell in it does between the checkpoint and the loss of the node."""
    id: str = ""
    first: str = ""
    second: str = ""
    failure: Exception | None = None

    def command(self) -> tuple[str, str, str]:
        return ("sh", "-c", self.script)


def _jobs(bed: Bed) -> dict[str, Job]:
    host = bed.folder / "host"
    for name in ("read-only", "shared", "scratch/job", "declared", "store"):
        (host / name).mkdir(parents=True)
    (host / "read-only/file").write_text("reference\n")
    (host / "one-file").write_text("one file\n")
    (host / "scratch/job/of-another").write_text("x")
    return {
        "plain": Job(HOLD + COUNT, checkpoints=2),
        "stored": Job(plan={"store": {"kind": "directory", "directory": str(host / "store"), "scratch_gib": 1}}),
        "ends": Job(),
        "stopped": Job(),
        "killed": Job(),
        "attached": Job(),
        "paused": Job(before="pause"),
        "restarted": Job(),
        "removed": Job(),
        "limits": Job(
            options=[
                *("--memory", "96m", "--memory-swap", "96m", "--memory-reservation", "48m"),
                *("--cpus", "0.5", "--cpu-shares", "300", "--cpuset-cpus", "0", "--pids-limit", "60"),
                *("--ulimit", "nofile=300:400", "--ulimit", "core=0:0", "--shm-size", "8m"),
            ]
        ),
        "hoard": Job(HOARD, ["--memory", "24m", "--memory-swap", "24m"]),
        "options": Job(
            "exec 3</etc/hosts; echo 10.1.2.4 licence >>/etc/hosts; " + COUNT,
            [
                *("--hostname", "the-host", "--workdir", "/var", "--env", "GREETING=hello there"),
                *("--label", "team=genomes", "--cap-drop", "ALL", "--cap-add", "CHOWN", "--add-host", "db:10.1.2.3"),
                *("--security-opt", "no-new-privileges", "--sysctl", "net.ipv4.ip_unprivileged_port_start=80"),
            ],
        ),
        "more options": Job(
            options=[
                *("--interactive", "--dns", "10.9.9.9", "--log-driver", "local", "--group-add", "44"),
                *("--restart", "on-failure:1", "--cgroupns", "private", "--blkio-weight", "300"),
            ]
        ),
        "read-only root": Job(
            "echo kept >/tmp/kept; " + COUNT.replace(">>/root/count", ">>/tmp/count"),
            ["--read-only", "--tmpfs", "/tmp:size=4m"],
        ),
        "init": Job(options=["--init"]),
        "published": Job(SERVE, ["--publish", "18080:8080"]),
        "healthy": Job(options=["--health-cmd", "test -e /root/count", "--health-interval", "1s"]),
        "mounts": Job(
            FILES + COUNT,
            [
                *("--env", "PLACES=/db /anonymous /scratch /shared /memory /mnt/perdure"),
                *("--volume", "/anonymous", "--volume", f"{host}/read-only:/read-only:ro"),
                *("--volume", f"{host}/one-file:/one-file:ro", "--volume", f"{host}/scratch/job:/scratch"),
                *("--mount", f"type=bind,source={host}/shared,target=/shared", "--tmpfs", "/memory"),
                *("--env", "PERDURE_SHARED_MOUNTS=/shared:/named", "--volume", "named-volume:/named"),
            ],
            VOLUME_IMAGE,
            after=LATER,
        ),
        "--user": Job(COUNT.replace("/root", "/tmp"), ["--user", "1000:1000"]),
        "databases": Job("exec /usr/bin/python3 /jobs/files.py databases /mnt/perdure /root /db", PYTHON, VOLUME_IMAGE),
    }


@dataclass
class Story:
    """Two nodes with one Docker, the second in use; the jobs that were lost with the first."""

    bed: Bed
    jobs: dict[str, Job]

    def first_half(self, name: str) -> None:
        job, bed = self.jobs[name], self.bed
        try:
            job.id = bed.new_job()
            if job.plan:
                bed.plan(job.id, **job.plan)
            job.first = bed.run(job.id, *job.command(), options=job.options, image=job.image)
            bed.until(lambda: {"3", "ready"} & set(bed.logs(job.first).split()), f"{name} runs")
            if job.before:
                bed.docker(job.before, job.first)
            for _ in range(job.checkpoints):
                bed.checkpoint(job.id)
            if job.after:
                bed.docker("exec", job.first, "sh", "-c", job.after)
        except (AssertionError, CheckpointRefused, OSError, subprocess.SubprocessError) as problem:
            job.failure = problem  # raised again by this job's own tests

    def back(self, name: str) -> str:
        """The job's container on the second node, restored when first asked for."""
        job, bed = self.jobs[name], self.bed
        if job.failure is not None:
            raise job.failure
        if not job.second:
            job.second = bed.run(job.id, *job.command(), options=job.options, image=job.image, attempt=2)
            assert bed.restored(job.id) is not None, bed.remarks(job.id)
        return job.second

    def counted(self, container: str) -> list[int]:
        """The numbers that `docker logs` shows. Each is one more than the one before."""
        numbers = [int(line) for line in self.bed.logs(container).splitlines() if line.isdigit()]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
        return numbers

    def counts_on(self, container: str) -> list[int]:
        """Until the job has counted further; all numbers since the restore."""
        so_far = len(self.counted(container))
        self.bed.until(lambda: len(self.counted(container)) > so_far + 2, "it counts")
        return self.counted(container)

    def inside(self, container: str, *command: str) -> str:
        return self.bed.docker("exec", container, *command).stdout.strip()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(one, id=str(one), marks=[] if one is HOST else [pytest.mark.matrix]) for one in (HOST, *NEWER)
    ],
)
def release(request: pytest.FixtureRequest) -> DockerRelease:
    chosen: DockerRelease = request.param
    return chosen


@pytest.fixture(scope="module")
def story(release: DockerRelease) -> Iterator[Story]:
    with docker_bed(programs=programs_or_skip(release), storage=release.storage) as bed:
        told = Story(bed, _jobs(bed))
        bed.new_node()
        bed.image(VOLUME_IMAGE, config={"Volumes": {"/db": {}}}, files={"db/of-the-image": "of the image\n"})
        for name in told.jobs:
            told.first_half(name)
        bed.power_loss()
        bed.new_node()
        yield told


@pytest.fixture(autouse=True)
def versions(request: pytest.FixtureRequest, story: Story) -> None:
    """What the column of the compatibility table is headed with."""
    request.node.user_properties.append(("versions", versions_of(story.bed)))


# ------------------------------------------------------------------------------------------- while the container runs


@pytest.mark.row("Docker commands", "run --detach, logs")
def test_output_goes_on_where_it_was(story: Story) -> None:
    container = story.back("plain")
    numbers = story.counts_on(container)
    assert numbers[0] > 3, "nothing is said twice"
    assert story.bed.docker("logs", container).stderr == "", "stderr was written before the checkpoint"
    log = (story.bed.node.job_root(story.jobs["plain"].id) / "log/stdout").read_text()
    assert [int(line) for line in log.splitlines()][: numbers[-1]] == list(range(1, numbers[-1] + 1))


@pytest.mark.row("Memory", "unchanged memory is shared between a container's checkpoints, and restored")
def test_checkpoints_share_pages(story: Story) -> None:
    job, bed = story.jobs["plain"], story.bed
    story.counts_on(story.back("plain"))
    assert bed.restored(job.id) == 2
    first, second = (read_head(bed.node.job_root(job.id) / f"checkpoints/{number}") for number in (1, 2))
    assert (first.written_bytes or 0) > 8_000_000 > 4 * (second.written_bytes or 0), "it wrote what had changed"
    assert (second.full, second.after_full) == (1, 1) and second.image_bytes > 8_000_000


@pytest.mark.row("Docker commands", "run, where the job has no volume: its checkpoints go through a store")
def test_a_job_without_a_volume(story: Story) -> None:
    container, bed, job = story.back("stored"), story.bed, story.jobs["stored"]
    numbers = story.counts_on(container)
    assert numbers[0] > 3 and bed.restored(job.id) == 1
    counted = [int(line) for line in story.inside(container, "cat", "/root/count").split()]
    assert counted == list(range(1, len(counted) + 1)), "its files came with its memory"
    assert not list(bed.volumes.glob(f"{job.id}.img"))
    assert bed.checkpoint(job.id) == 2


@pytest.mark.row("Docker commands", "logs --follow, --tail, --timestamps; attach")
def test_output_can_be_followed(story: Story) -> None:
    container = story.back("plain")
    for words in (["logs", "--follow", "--tail", "1", "--timestamps"], ["attach", "--no-stdin", "--sig-proxy=false"]):
        with story.bed.node.follow(*words, container) as follower:
            assert follower.stdout is not None
            lines = [follower.stdout.readline().split()[-1] for _ in range(4)]
        assert [int(line) for line in lines] == list(range(int(lines[0]), int(lines[0]) + 4))


@pytest.mark.row("Docker commands", "exec, with its exit code; exec --detach, --tty, --env, --workdir")
def test_exec(story: Story) -> None:
    container, docker = story.back("plain"), story.bed.docker
    told = docker(
        "exec",
        "--env",
        "WORD=there",
        "--workdir",
        "/etc",
        container,
        "sh",
        "-c",
        "echo $WORD $PWD; exit 3",
        check=False,
    )
    assert (told.returncode, told.stdout) == (3, "there /etc\n")
    assert docker("exec", "--tty", container, "tty").stdout.startswith("/dev/")
    docker("exec", "--detach", container, "touch", "/tmp/detached")
    story.bed.until(
        lambda: docker("exec", container, "test", "-e", "/tmp/detached", check=False).returncode == 0, "done"
    )
    assert story.inside(container, "sh", "-c", "echo $AWS_BATCH_JOB_ATTEMPT") == "2"


@pytest.mark.row("Docker commands", "top, stats, inspect, ps")
def test_it_can_be_looked_at(story: Story) -> None:
    container, bed = story.back("plain"), story.bed
    bed.until(lambda: "sleep 0.1" in bed.docker("top", container).stdout, "it sleeps")  # between two it does not
    memory, processes = bed.docker(
        "stats", "--no-stream", "--format", "{{.MemUsage}},{{.PIDs}}", container
    ).stdout.split(",")
    assert not memory.startswith("0B") and int(processes) >= 1
    state = json.loads(bed.docker("inspect", "--format", "{{json .State}}", container).stdout)
    assert (state["Status"], state["Running"], state["Paused"], state["ExitCode"]) == ("running", True, False, 0)
    assert bed.node.at(f"/proc/{state['Pid']}/cmdline").read_text().startswith("sh\0-c\0")
    assert container[:12] in bed.docker("ps").stdout


@pytest.mark.row("Docker commands", "cp both ways, files and folders")
def test_cp(story: Story, tmp_path: Path) -> None:
    container, docker = story.back("plain"), story.bed.docker
    (tmp_path / "in").mkdir()
    (tmp_path / "in/file").write_text("copied in\n")
    docker("cp", tmp_path / "in", f"{container}:/root/folder")
    assert story.inside(container, "cat", "/root/folder/file") == "copied in"
    docker("exec", container, "sh", "-c", "echo by the job >>/root/folder/file")
    docker("cp", f"{container}:/root/folder", tmp_path / "out")
    assert (tmp_path / "out/file").read_text() == "copied in\nby the job\n"
    docker("cp", f"{container}:/root/count", tmp_path / "count")
    assert (tmp_path / "count").read_text().splitlines()[:4] == ["1", "2", "3", "4"]


@pytest.mark.row("Docker commands", "diff, ps --size, commit, export")
def test_its_files_can_be_had(story: Story) -> None:
    container, docker = story.back("plain"), story.bed.docker
    docker("exec", container, "sh", "-c", "rm /etc/perdure-test; dd if=/dev/zero of=/root/large bs=1k count=300")
    changes = docker("diff", container).stdout.splitlines()
    assert {"A /root/count", "D /etc/perdure-test", "C /root"} <= set(changes)
    size = docker("ps", "--size", "--filter", f"id={container}", "--format", "{{.Size}}").stdout
    assert float(size.split("kB")[0]) > 300, size
    docker("commit", container, "committed:1")
    assert (
        docker("run", "--rm", "--env", "AWS_BATCH_JOB_ID=", "committed:1", "head", "-n", "2", "/root/count").stdout
        == "1\n2\n"
    )
    exported = docker("export", container, text=False).stdout
    with tarfile.open(fileobj=io.BytesIO(exported)) as archive:  # type: ignore[arg-type]
        names = archive.getnames()
    assert "root/count" in names and "etc/perdure-test" not in names


@pytest.mark.row("Docker commands", "pause, unpause; a checkpoint of a paused container leaves it paused")
def test_pause(story: Story) -> None:
    container, bed = story.back("plain"), story.bed
    bed.docker("pause", container)
    assert bed.inspect(container, ".State.Status") == "paused"
    counted = story.counted(container)
    assert bed.checkpoint(story.jobs["plain"].id) >= 2
    assert bed.inspect(container, ".State.Status") == "paused"
    assert len(story.counted(container)) <= len(counted) + 1, "it was not woken"
    bed.docker("unpause", container)
    story.counts_on(container)


@pytest.mark.row("Docker commands", "a container that was paused at its checkpoint runs once it is restored")
def test_a_paused_container_is_restored_running(story: Story) -> None:
    container = story.back("paused")
    assert story.bed.inspect(container, ".State.Status") == "running"
    assert story.counts_on(container)[0] > 3


@pytest.mark.row("Docker commands", "update, rename")
def test_update_and_rename(story: Story) -> None:
    container, bed = story.back("limits"), story.bed
    bed.docker("update", "--memory", "80m", "--memory-swap", "80m", container)
    assert cgroup_value(bed, container, "memory", "memory.limit_in_bytes", "memory.max") == str(80 << 20)
    bed.docker("rename", container, "another-name")
    assert bed.docker("exec", "another-name", "echo", "x").stdout == "x\n"


# ------------------------------------------------------------------------------------------------------------ its end


@pytest.mark.row("Docker commands", "wait, exit code; logs, cp and diff after the exit; rm")
def test_it_ends_by_itself(story: Story, tmp_path: Path) -> None:
    container, bed = story.back("ends"), story.bed
    story.counts_on(container)
    bed.docker("exec", container, "touch", "/tmp/enough")
    assert bed.wait(container) == 7
    assert "Exited (7)" in bed.docker("ps", "--all", "--filter", f"id={container}").stdout
    assert bed.inspect(container, ".State.Error") == ""
    last = story.counted(container)[-1]
    assert bed.logs(container).splitlines()[-1] == "enough"
    bed.docker("cp", f"{container}:/root/count", tmp_path / "count")
    assert (tmp_path / "count").read_text().split() == [str(number) for number in range(1, last + 1)]
    assert "A /root/count" in bed.docker("diff", container).stdout
    bed.docker("rm", container)
    assert story.jobs["ends"].id not in bed.node.mounts()


@pytest.mark.row("Docker commands", "stop")
def test_stop(story: Story) -> None:
    container, bed = story.back("stopped"), story.bed
    bed.docker("stop", "--time", "30", container)
    assert bed.inspect(container, ".State.ExitCode") == "5"
    assert bed.logs(container).splitlines()[-1] == "asked to end"


@pytest.mark.row("Docker commands", "kill, with any signal")
def test_kill(story: Story) -> None:
    container, bed = story.back("killed"), story.bed
    bed.docker("kill", "--signal", "USR1", container)
    bed.until(lambda: "told" in bed.logs(container).split(), "the signal's trap")
    story.counts_on(container)
    bed.docker("kill", container)
    assert bed.wait(container) == 137
    assert bed.inspect(container, ".State.OOMKilled") == "false"


@pytest.mark.row("Docker commands", "run in the foreground")
def test_run_in_the_foreground(story: Story) -> None:
    job, bed = story.jobs["attached"], story.bed
    if job.failure is not None:
        raise job.failure
    words = ["run", "--name", "attached", *bed.environment(job.id, 2), job.image, *job.command()]
    with bed.node.follow(*words) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        bed.docker("exec", "attached", "touch", "/tmp/enough")
        rest = process.stdout.read().splitlines()
        assert process.wait(PATIENCE) == 7
    numbers = [int(line) for line in [*lines, *rest] if line.strip().isdigit()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[0] > 3
    assert rest[-1] == "enough"


@pytest.mark.row("Docker commands", "restart: goes on from the newest checkpoint, as another attempt would")
def test_restart(story: Story) -> None:
    container, bed = story.back("restarted"), story.bed
    story.counts_on(container)
    number = bed.checkpoint(story.jobs["restarted"].id)
    bed.docker("restart", "--time", "30", container)
    assert bed.inspect(container, ".State.Status") == "running"
    assert bed.restored(story.jobs["restarted"].id) == number
    bed.docker("exec", container, "touch", "/tmp/enough")
    assert bed.wait(container) == 7
    count = story.bed.docker("cp", f"{container}:/root/count", "-", text=False).stdout
    with tarfile.open(fileobj=io.BytesIO(count)) as archive:  # type: ignore[arg-type]
        file = archive.extractfile("count")
        assert file is not None
        numbers = [int(line) for line in file.read().split()]
    assert numbers == list(range(1, len(numbers) + 1)), "its files went back with its memory"


@pytest.mark.row("Docker commands", "rm --force, with the agent there and away")
def test_a_removed_container_takes_nothing_of_the_job_along(story: Story) -> None:
    bed, job = story.bed, story.jobs["removed"]
    container = story.back("removed")
    bed.docker("rm", "--force", container)
    bed.until(lambda: job.id not in bed.node.mounts(), "nothing of it is mounted")
    job.second = ""
    container = story.back("removed")
    story.counts_on(container)
    bed.node.kill_agent()
    bed.docker("rm", "--force", "--volumes", container, check=False)  # Docker may say that it could not remove a folder
    bed.node.start_agent()
    bed.node.await_agent()
    bed.until(lambda: job.id not in bed.node.mounts(), "the next agent lets go of it")
    bed.docker("rm", "--force", "--volumes", container, check=False)
    job.second = ""
    container = story.back("removed")
    assert story.inside(container, "head", "-n", "2", "/root/count").split() == ["1", "2"]
    story.counts_on(container)


# ------------------------------------------------------------------------------------------------- limits and options


def cgroup_value(bed: Bed, container: str, controller: str, old: str, new: str) -> str:
    """A file of the container's cgroup, by its name in version 1 and 2."""
    pid = bed.inspect(container, ".State.Pid")
    lines = bed.node.at(f"/proc/{pid}/cgroup").read_text().splitlines()
    places = {name: line.split(":", 2)[2] for line in lines for name in line.split(":")[1].split(",")}
    if controller in places:
        return Path(f"/sys/fs/cgroup/{controller}{places[controller]}/{old}").read_text().strip()
    return Path(f"/sys/fs/cgroup{places['']}/{new}").read_text().strip()


@pytest.mark.row(
    "Limits and options", "--memory, --memory-reservation, --cpus, --cpu-shares, --cpuset-cpus, --pids-limit"
)
def test_limits_of_the_cgroup(story: Story) -> None:
    container, bed = story.back("limits"), story.bed
    if cgroup_value(bed, container, "pids", "pids.max", "pids.max") != "60":
        pytest.fail("the limit of processes was lost")
    if not Path("/sys/fs/cgroup/memory").is_dir():
        return
    values = {
        "memory.soft_limit_in_bytes": ("memory", str(48 << 20)),
        "cpu.cfs_quota_us": ("cpu", "50000"),
        "cpu.shares": ("cpu", "300"),
        "cpuset.cpus": ("cpuset", "0"),
    }
    found = {name: cgroup_value(bed, container, controller, name, "") for name, (controller, _) in values.items()}
    assert found == {name: value for name, (_, value) in values.items()}
    assert int(cgroup_value(bed, container, "memory", "memory.limit_in_bytes", "")) in (80 << 20, 96 << 20)
    story.counts_on(container)


@pytest.mark.row("Limits and options", "--ulimit, --shm-size")
def test_limits_of_the_process(story: Story) -> None:
    container = story.back("limits")
    limits = story.inside(container, "cat", "/proc/1/limits").splitlines()
    rows = {line[:26].strip(): line[26:].split()[:2] for line in limits[1:]}
    assert rows["Max open files"] == ["300", "400"]
    assert rows["Max core file size"] == ["0", "0"]
    assert story.inside(container, "df", "-m", "/dev/shm").split()[-5] == "8"


@pytest.mark.row("Limits and options", "--memory: an OOM kill is one (exit code 137, OOMKilled)")
def test_out_of_memory(story: Story) -> None:
    container, bed = story.back("hoard"), story.bed
    bed.docker("exec", container, "touch", "/tmp/enough")
    assert bed.wait(container) == 137
    assert bed.inspect(container, ".State.OOMKilled") == "true"


@pytest.mark.row("Limits and options", "--hostname, --workdir, --env, --label, --add-host")
def test_surroundings(story: Story) -> None:
    container, bed = story.back("options"), story.bed
    assert story.inside(container, "hostname") == "the-host"
    assert story.inside(container, "readlink", "/proc/1/cwd") == "/var"
    assert story.inside(container, "cat", "/proc/1/oom_score_adj") == "0", "not that of the programs that restore"
    environment = story.inside(container, "sh", "-c", "tr '\\0' '\\n' </proc/1/environ").splitlines()
    assert "GREETING=hello there" in environment
    assert "10.1.2.3" in story.inside(container, "grep", "db", "/etc/hosts")
    assert story.inside(container, "grep", "-c", "licence", "/etc/hosts") == "1", "the job wrote that there"
    assert story.jobs["plain"].first[:12] in story.inside(story.back("plain"), "cat", "/etc/hosts"), "its own name"
    assert bed.inspect(container, 'index .Config.Labels "team"') == "genomes"


@pytest.mark.row("Limits and options", "--interactive, --dns, --log-driver local, --group-add, --restart, --cgroupns")
def test_more_surroundings(story: Story) -> None:
    container = story.back("more options")
    assert story.counts_on(container)[0] > 3
    assert "nameserver 10.9.9.9" in story.inside(container, "cat", "/etc/resolv.conf")
    status = dict(line.split(":\t") for line in story.inside(container, "cat", "/proc/1/status").splitlines())
    assert "44" in status["Groups"].split()
    assert story.inside(container, "readlink", "/proc/1/fd/0").startswith("pipe:"), "its stdin is open"


@pytest.mark.row(
    "Limits and options", "--cap-drop, --cap-add, --security-opt no-new-privileges, seccomp's default, --sysctl"
)
def test_privileges(story: Story) -> None:
    container = story.back("options")
    status = dict(line.split(":\t") for line in story.inside(container, "cat", "/proc/1/status").splitlines())
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 1
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert story.inside(container, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start") == "80"


@pytest.mark.row("Limits and options", "--read-only with --tmpfs")
def test_a_root_that_cannot_be_written(story: Story) -> None:
    container, bed = story.back("read-only root"), story.bed
    refused = bed.docker("exec", container, "touch", "/root/x", check=False)
    assert refused.returncode == 1 and "Read-only" in refused.stderr
    assert story.inside(container, "cat", "/tmp/kept") == "kept"
    story.counts_on(container)


@pytest.mark.row("Limits and options", "--init")
def test_init(story: Story) -> None:
    container, bed = story.back("init"), story.bed
    assert "init" in story.inside(container, "cat", "/proc/1/comm")
    story.counts_on(container)
    bed.docker("stop", "--time", "30", container)
    assert bed.inspect(container, ".State.ExitCode") == "5"


@pytest.mark.row("Limits and options", "--user")
def test_user(story: Story) -> None:
    own = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if "\t" in line)
    if not int(own["CapEff"], 16) >> 24 & 1:
        pytest.skip("this machine lacks CAP_SYS_RESOURCE, without which CRIU cannot restore another user's limits")
    container = story.back("--user")
    story.counts_on(container)
    assert story.inside(container, "stat", "-c", "%u:%g", "/proc/1") == "1000:1000"


@pytest.mark.row("Limits and options", "--publish")
def test_a_published_port(story: Story) -> None:
    story.counts_on(story.back("published"))
    ask = "exec 3<>/dev/tcp/127.0.0.1/18080 && timeout 5 cat <&3"
    story.bed.until(lambda: "answer" in story.bed.node.attempt("bash", "-c", ask), "the port answers")


@pytest.mark.row("Limits and options", "--health-cmd")
def test_health(story: Story) -> None:
    container, bed = story.back("healthy"), story.bed
    bed.until(lambda: bed.inspect(container, ".State.Health.Status") == "healthy", "it is found healthy")


# ------------------------------------------------------------------------------------------------------------- mounts


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("/db", marks=pytest.mark.row("Mounts", "VOLUME of an image")),
        pytest.param("/anonymous", marks=pytest.mark.row("Mounts", "anonymous volume")),
        pytest.param("/scratch", marks=pytest.mark.row("Mounts", "host folder configured as scratch")),
        pytest.param("/memory", marks=pytest.mark.row("Mounts", "tmpfs")),
        pytest.param("/mnt/perdure", marks=pytest.mark.row("Mounts", "the job volume's own folder")),
    ],
)
def test_a_captured_mount_goes_back_to_the_checkpoint(story: Story, place: str) -> None:
    container = story.back("mounts")
    assert story.inside(container, "cat", f"{place}/file") == "before"
    assert story.inside(container, "ls", f"{place}/folder") == ""
    story.counts_on(container)


@pytest.mark.row("Files", "SQLite: an open transaction, and a second connection of the same process")
def test_databases_on_the_layer_the_job_volume_and_an_images_volume_know_their_own_locks(story: Story) -> None:
    container, bed = story.back("databases"), story.bed
    bed.docker("exec", container, "touch", "/mnt/perdure/finish")
    assert bed.wait(container) == 0, bed.logs(container)
    assert bed.logs(container).splitlines()[-1] == "end committed"


@pytest.mark.row("Mounts", "VOLUME of an image")
def test_a_volume_keeps_the_images_files_and_what_is_open(story: Story, tmp_path: Path) -> None:
    container, bed = story.back("mounts"), story.bed
    assert story.inside(container, "cat", "/db/of-the-image") == "of the image"
    assert story.inside(container, "cat", "/db/open") == "open", "written to after the checkpoint"
    bed.docker("exec", container, "sh", "-c", "echo again >>/proc/1/fd/3")
    assert story.inside(container, "cat", "/db/open").split() == ["open", "again"]
    bed.docker("cp", f"{container}:/db/open", tmp_path / "open")
    assert (tmp_path / "open").read_text() == "open\nagain\n"
    (tmp_path / "in").write_text("in\n")
    bed.docker("cp", tmp_path / "in", f"{container}:/anonymous/in")
    assert story.inside(container, "cat", "/anonymous/in") == "in"


@pytest.mark.row("Mounts", "host folder configured as scratch")
def test_scratch_is_the_jobs_own(story: Story) -> None:
    container = story.back("mounts")
    assert sorted(story.inside(container, "ls", "/scratch").split()) == ["file", "folder"]
    assert os.listdir(story.bed.folder / "host/scratch/job") == ["of-another"]


@pytest.mark.row("Mounts", "read-only bind of a folder or a file")
def test_read_only_binds(story: Story) -> None:
    container = story.back("mounts")
    assert story.inside(container, "cat", "/read-only/file", "/one-file").splitlines() == ["reference", "one file"]


@pytest.mark.row("Mounts", "writable bind or named volume declared shared: stays, and an event names it")
def test_a_shared_mount_is_outside_the_promise_and_is_named(story: Story) -> None:
    container = story.back("mounts")
    assert story.inside(container, "cat", "/shared/file") == "after"
    said = story.bed.until(lambda: story.bed.remarks(story.jobs["mounts"].id), "the event")
    assert any("/shared" in line and "/named" in line for line in said), said


@pytest.mark.row(
    "Mounts", "any other writable bind, --ipc host, --pid host, --tty: runs unprotected, and an event names it"
)
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--volume", "{host}/shared:/undeclared"], "/undeclared"),
        (["--volume", "/run/docker.sock:/docker.sock"], "/docker.sock"),
        (["--ipc", "host"], "--ipc"),
        (["--ipc", "shareable"], "/dev/shm"),
        (["--pid", "host"], "--pid"),
        (["--tty"], "tty"),
    ],
)
def test_what_cannot_be_protected_runs_all_the_same(story: Story, options: list[str], named: str) -> None:
    bed = story.bed
    job = bed.new_job()
    container = bed.run(job, "sh", "-c", "exit 4", options=[word.format(host=bed.folder / "host") for word in options])
    assert bed.wait(container) == 4
    assert named in bed.until(lambda: bed.remarks(job), "the event")[0]


# --------------------------------------------------------------------------------------------- last: the engine itself


@pytest.mark.row("Docker commands", "dockerd restarts: its containers end as always, and jobs are restored after it")
def test_dockerd_restarts(story: Story) -> None:
    bed, job = story.bed, story.jobs["removed"]
    container = story.back("removed")
    story.counts_on(container)
    bed.node.restart_dockerd()
    bed.until(lambda: bed.inspect(container, ".State.Running") == "false", "it has ended")
    bed.until(lambda: job.id not in bed.node.mounts(), "nothing of it is mounted")
    job.second = ""
    story.counts_on(story.back("removed"))


@pytest.mark.row(
    "Docker commands", "a notice: its job is ended (137) and goes on elsewhere; rm leaves the job's files alone"
)
def test_a_notice_hands_the_job_over(story: Story) -> None:
    bed, job = story.bed, story.jobs["removed"]
    container = story.back("removed")
    story.counts_on(container)
    assert job.id not in bed.notice()
    assert bed.wait(container) == 137
    assert bed.inspect(container, ".State.OOMKilled") == "false"
    assert job.id not in bed.node.mounts(), "its volume is free already"
    ended = story.counted(container)[-1]
    bed.docker("rm", "--volumes", container)
    bed.end_node()
    bed.new_node()
    job.second = ""
    container = story.back("removed")
    numbers = story.counts_on(container)
    assert numbers[0] == ended + 1, "every line once"
    assert story.inside(container, "head", "-n", "2", "/root/count").split() == ["1", "2"]
