"""Nodes with a real dockerd for tests: perdure-runtime is Docker's default runtime, and the real agent answers it.

    with docker_bed() as bed:                            # or docker_bed(programs=(FOLDER,), storage="containerd")
        node = bed.new_node()                            # dockerd and agent up, the image IMAGE loaded
        job = bed.new_job()                              # a Batch job id
        first = bed.run(job, "sh", "-c", "...")          # `docker run -d` with the job's environment; its container id
        bed.run(job, "sh", options=["-m", "64m"])        # options of `docker run`; `image=` another image
        bed.docker("logs", first)                        # any docker command: .stdout, .stderr, .returncode (checked)
        bed.until(lambda: "5" in bed.logs(first), "5")   # poll a condition
        bed.checkpoint(job)                              # its number; CheckpointRefused with the reason
        bed.power_loss()                                 # nothing unsynced survives; everything on the node is dead
        bed.notice()                                     # or: saved, handed over (ended, volume unmounted)
        bed.new_node()                                   # empty data-root, same volumes: `bed.run(job, ...)` restores
        bed.restored(job)                                # number of the checkpoint it was restored from, or None
        bed.remarks(job); bed.reports(job)               # what the agent told: events, and all reports
        node.kill_agent(); node.start_agent(); node.restart_dockerd()

A node is a set of namespaces (net, pid, mount, ipc, uts) with an own tmpfs on /run and /dev/disk, and the machine's
root file system. Each job has an own XFS volume in a file; the agent (tests/integration/docker_agent.py) plans by
itself: fresh for a new job, else the newest checkpoint (`bed.plan(job, verdict="fresh")` says otherwise).

Another Docker: `programs` are folders that come first on PATH, in front of the machine's own: dockerd, containerd,
containerd-shim-runc-v2, runc, ctr, docker-init, docker. Programs that need other libraries than the machine has must
bring them (patchelf). Storage is `overlay2` or `containerd` (the image store, Docker 24 and newer).

Everything is removed at the end, on failure too; with PERDURE_KEEP_LOGS=FOLDER the logs are copied there before.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure import waiting
from perdure.contracts.protection import NodeReport, ReportKind
from perdure.domain.jobs import folder_name
from perdure.image.mounts import delete_tree, parse_mountinfo
from tests.integration.docker_images import IMAGE, image_archive
from tests.patience import PATIENCE
from worker_agent.tell.spool import Entry

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "worker_agent/runtime/perdure-runtime"
_FS_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
_BOOT = """
set -e
umount -a -l -t xfs,overlay || true
mount -t tmpfs -o mode=755 none /run
mount -t tmpfs none /dev/disk
ip link set lo up
mkdir -p /run/lock
exec /usr/bin/tini-static -- sh -c 'touch /run/booted; exec sleep infinity'
"""


class CheckpointRefused(Exception):
    """There is no checkpoint; the reason."""


Done = subprocess.CompletedProcess[str]


def tool(*argv: str | Path, **options: Any) -> str:
    """Run a program that must succeed; its output."""
    done: Done = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, timeout=PATIENCE, check=False, **options
    )
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout.strip()


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE, pause: float = 0.2) -> Any:
    """Wait for something true, and return it."""
    return waiting.until(condition, seconds, pause, what)


class Node:
    """One instance: namespaces, dockerd, agent. Made by `Bed.new_node`."""

    def __init__(self, bed: Bed, number: int) -> None:
        self.bed = bed
        self.instance_id = f"i-{secrets.token_hex(8)}"
        self.folder = bed.folder / f"node-{number}"
        self.folder.mkdir()
        self.cgroup = f"{bed.cgroup}/{number}"
        self.path = ":".join([*map(str, bed.programs), "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"])
        namespaces = ["--net", "--pid", "--mount", "--ipc", "--uts", "--propagation", "private", "--mount-proc"]
        Path("/dev/disk").mkdir(exist_ok=True)
        with (self.folder / "boot.log").open("wb") as log:
            self._holder = subprocess.Popen(
                ["unshare", *namespaces, "--fork", "--kill-child", "sh", "-c", _BOOT],
                start_new_session=True,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PATH": self.path},
            )
        self._dockerd: subprocess.Popen[bytes] | None = None
        self._agent: subprocess.Popen[bytes] | None = None
        self.init = until(self._find_init, f"the node's first process: {self.folder}/boot.log")

    def _find_init(self) -> int:
        children = _children(self._holder.pid)
        assert self._holder.poll() is None, (self.folder / "boot.log").read_text()
        if not children or not Path(f"/proc/{children[0]}/root/run/booted").exists():
            return 0
        return children[0]

    @property
    def inside(self) -> list[str]:
        """What comes before a program that runs on the node."""
        enter = ["nsenter", "--target", str(self.init), "--net", "--pid", "--mount", "--ipc", "--uts"]
        return [*enter, f"--wd={ROOT}", "--"]

    def at(self, path: str | Path) -> Path:
        """A file of the node, seen from here."""
        return Path(f"/proc/{self.init}/root{path}")

    def tool(self, *argv: str | Path) -> str:
        """Run a program on the node that must succeed."""
        return tool(*self.inside, *argv)

    def attempt(self, *argv: str) -> str:
        """Run a program on the node; its output, whatever became of it."""
        return subprocess.run(
            [*self.inside, *argv], capture_output=True, text=True, timeout=PATIENCE, check=False
        ).stdout

    def start_dockerd(self) -> None:
        """Until it answers."""
        config = {"features": {"containerd-snapshotter": True}} if self.bed.storage == "containerd" else {}
        (self.folder / "daemon.json").write_text(json.dumps(config))
        storage = ["--storage-driver", "overlay2"] if self.bed.storage == "overlay2" else []
        argv = [
            *self.inside,
            "dockerd",
            "--config-file",
            str(self.folder / "daemon.json"),
            "--data-root",
            str(self.folder / "docker"),
            "--exec-root",
            "/run/docker",
            "--pidfile",
            "/run/docker.pid",
            "--host",
            "unix:///run/docker.sock",
            "--cgroup-parent",
            self.cgroup,
            "--exec-opt",
            "native.cgroupdriver=cgroupfs",
            "--init-path",
            "/usr/bin/tini-static",
            "--add-runtime",
            f"perdure={RUNTIME}",
            "--default-runtime",
            "perdure",
            *storage,
            *self.bed.dockerd_options,
        ]
        log = (self.folder / "dockerd.log").open("ab")
        environment = {"PATH": self.path, "HOME": "/root", **self.bed.dockerd_environment}
        self._dockerd = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
        log.close()

    def await_dockerd(self) -> None:
        """Until it answers."""

        def answers() -> bool:
            assert self._dockerd is not None and self._dockerd.poll() is None, self.dockerd_log()[-3000:]
            # Its socket first: each question to a dockerd that is not there yet is a program started for nothing.
            return self.at("/run/docker.sock").exists() and self.docker("version", check=False).returncode == 0

        until(answers, f"dockerd: {self.folder}/dockerd.log", pause=0.1)

    def restart_dockerd(self) -> None:
        """SIGTERM and a new one, as a package upgrade does; without live-restore the containers end."""
        assert self._dockerd is not None
        for pid in _children(self._dockerd.pid):
            os.kill(pid, signal.SIGTERM)
        self._dockerd.wait(PATIENCE)
        self.start_dockerd()
        self.await_dockerd()

    def docker(self, *words: str | Path, check: bool = True, **options: Any) -> Done:
        """The docker command, run outside the node (so `docker cp` sees the machine's files)."""
        argv, environment = self._docker(words)
        options = {"capture_output": True, "text": True, "timeout": PATIENCE, **options}
        done: Done = subprocess.run(argv, env=environment, check=False, **options)
        assert not check or done.returncode == 0, (
            f"docker {' '.join(map(str, words))}: {done.stderr}\n{self.agent_log()}"
        )
        return done

    def _docker(self, words: Sequence[str | Path]) -> tuple[list[str], dict[str, str]]:
        program = shutil.which("docker", path=":".join([*map(str, self.bed.programs), "/usr/bin"]))
        assert program, "docker is missing; run `make setup`"
        argv = [program, "--host", f"unix:///proc/{self.init}/root/run/docker.sock", *map(str, words)]
        return argv, {"PATH": self.path, "HOME": str(self.bed.folder)}

    @contextlib.contextmanager
    def follow(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """A docker command that goes on (`logs --follow`), with its stdout to be read; ended with the block."""
        argv, environment = self._docker(words)
        with subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            watchdog = threading.Timer(PATIENCE, process.kill)
            watchdog.start()
            try:
                yield process
            finally:
                watchdog.cancel()
                process.kill()

    def start_agent(self) -> None:
        """Returns at once; see `await_agent`."""
        log = (self.folder / "agent.log").open("ab")
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{self.path}",
            "PERDURE_STATE_DIR": str(self.folder / "state"),
            "PERDURE_CONTAINER_START_TIMEOUT": "120",
            "TEMPORAL_ADDRESS": "127.0.0.1:1",
            "INSTANCE_ID": self.instance_id,
            **self.bed.agent_environment,
        }
        argv = [*self.inside, sys.executable, "-m", "tests.integration.docker_agent", str(self.bed.volumes)]
        self._agent = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
        log.close()

    def await_agent(self) -> None:
        """Until it serves the runtime and the tests."""

        def serves() -> bool:
            assert self._agent is not None and self._agent.poll() is None, self.agent_log()[-3000:]
            return all(self.at(f"/run/perdure/{name}.sock").exists() for name in ("agent", "test"))

        until(serves, f"the agent: {self.folder}/agent.log")

    def kill_agent(self) -> None:
        """SIGKILL, as a crash."""
        if self._agent is not None:
            for pid in _children(self._agent.pid):
                os.kill(pid, signal.SIGKILL)
            self._agent.wait(PATIENCE)
            self._agent = None
            for name in ("agent", "test"):
                self.at(f"/run/perdure/{name}.sock").unlink(missing_ok=True)

    def ask(self, **question: Any) -> dict[str, Any]:
        """What docker_agent.py answers."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(self.at("/run/perdure/test.sock")))
            connection.sendall(json.dumps(question).encode() + b"\n")
            with connection.makefile() as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
        return answer

    def agent_log(self) -> str:
        return _text(self.folder / "agent.log")

    def dockerd_log(self) -> str:
        return _text(self.folder / "dockerd.log")

    def job_root(self, job: str) -> Path:
        """The job root, seen from here, while it is mounted on the node."""
        return self.at(self.folder / "state/jobs" / folder_name(job))

    def mounts(self) -> str:
        """The node's mount table."""
        return Path(f"/proc/{self.init}/mountinfo").read_text()

    def lose_power(self) -> None:
        """Job volumes stop at once, without flushing; then everything dies."""
        for mount in parse_mountinfo(self.mounts()):
            if mount.kind == "xfs" and mount.root == "/" and mount.point.startswith(str(self.folder)):
                descriptor = os.open(self.at(mount.point), os.O_RDONLY)
                fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, _NO_LOG_FLUSH.to_bytes(4, sys.byteorder))
                os.close(descriptor)
        self.close()

    def _dies(self) -> bool:
        thaw_all(self.cgroup)  # what is frozen does not die
        return self._holder.poll() is not None

    def close(self) -> None:
        """End everything on the node, whatever state it is in."""
        if self._holder.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.init, signal.SIGKILL)
            waiting.until(self._dies, PATIENCE, 0.02, f"the node of {self.folder} does not die")
        for process in (self._dockerd, self._agent):
            if process is not None:
                process.wait(PATIENCE)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _cgroup_folders(cgroup: str) -> list[Path]:
    """The folders of a cgroup path and below it, deepest first, in every hierarchy."""
    tops = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    return [
        Path(folder)
        for top in tops
        if (top / cgroup.strip("/")).is_dir()
        for folder, _, _ in os.walk(top / cgroup.strip("/"), topdown=False)
    ]


def thaw_all(cgroup: str) -> None:
    """Let everything below a cgroup path run."""
    for folder in _cgroup_folders(cgroup):
        for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
            with contextlib.suppress(OSError):
                if (folder / name).exists():
                    (folder / name).write_text(word)


@dataclass
class Bed:
    """Nodes one after the other (or beside each other), and the volumes that outlive them. Made by `docker_bed`."""

    folder: Path
    cgroup: str
    programs: tuple[Path, ...]
    storage: str
    dockerd_options: Sequence[str] = ()
    dockerd_environment: dict[str, str] = field(default_factory=dict)
    agent_environment: dict[str, str] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    past: list[Node] = field(default_factory=list)
    """Nodes that are gone; their folders are still there to be read."""
    archives: list[Path] = field(default_factory=list)
    """Loaded on every new node."""

    @property
    def volumes(self) -> Path:
        return self.folder / "volumes"

    @property
    def node(self) -> Node:
        """The newest one."""
        return self.nodes[-1]

    def new_node(self, *, load: bool = True) -> Node:
        """Booted, dockerd and agent up, images loaded."""
        node = Node(self, len(self.nodes) + len(self.past) + 1)
        self.nodes.append(node)
        node.start_dockerd()
        node.start_agent()
        node.await_dockerd()
        for archive in self.archives if load else ():
            node.docker("load", "--input", archive)
        node.await_agent()
        return node

    def image(self, tag: str, **how: Any) -> str:
        """Another image (docker_images.image_archive says how), on the nodes that are there and on all new ones."""
        archive = image_archive(self.folder / f"image-{len(self.archives)}.tar", tag, **how)
        self.archives.append(archive)
        for node in self.nodes:
            node.docker("load", "--input", archive)
        return tag

    def docker(self, *words: str | Path, check: bool = True, **options: Any) -> Done:
        """A docker command on the newest node."""
        return self.node.docker(*words, check=check, **options)

    def version(self) -> str:
        """Of the Docker server: the column of the compatibility table is `Docker <this>`."""
        return self.docker("version", "--format", "{{.Server.Version}}").stdout.strip().partition("+")[0]

    def new_job(self) -> str:
        return f"job-{secrets.token_hex(6)}"

    def environment(self, job: str, attempt: int = 1) -> list[str]:
        """The options of `docker run` that make the container one of the job's."""
        return ["-e", f"AWS_BATCH_JOB_ID={job}", "-e", f"AWS_BATCH_JOB_ATTEMPT={attempt}"]

    def run(self, job: str, *command: str, options: Sequence[str] = (), image: str = IMAGE, attempt: int = 1) -> str:
        """`docker run -d`; the container's id. Start codes in `command` are the image's programs (busybox)."""
        words = ["run", "-d", *self.environment(job, attempt), *options, image, *command]
        return self.docker(*words).stdout.strip()

    def logs(self, container: str) -> str:
        """What it wrote to stdout so far, as `docker logs` tells."""
        return self.docker("logs", container).stdout

    def wait(self, container: str) -> int:
        """Its exit code."""
        return int(self.docker("wait", container).stdout)

    def inspect(self, container: str, what: str) -> str:
        """One value by a template such as `.State.Status`."""
        return self.docker("inspect", "--format", "{{" + what + "}}", container).stdout.strip()

    until = staticmethod(until)

    def plan(self, job: str, **fields: Any) -> None:
        """Change what the agent's planner answers for containers of the job from now on (fields of AttachReply)."""
        (self.volumes / f"{folder_name(job)}.plan").write_text(json.dumps(fields))

    def checkpoint(self, job: str) -> int:
        """Take one now; its number."""
        answer = self.node.ask(do="checkpoint", job=job)
        if "failure" in answer:
            raise CheckpointRefused(answer["failure"])
        return int(answer["number"])

    def notice(self, way: str = "end container") -> dict[str, str]:
        """Every job on the node is saved and handed over; the failures by job."""
        failures: dict[str, str] = self.node.ask(do="notice", way=way)["failures"]
        return failures

    def power_loss(self) -> None:
        """The newest node is gone, without notice."""
        self.node.lose_power()
        self._forget()

    def end_node(self) -> None:
        """The newest node is gone; what it wrote is on its volumes."""
        self.node.tool("sync")
        self.node.close()
        self._forget()

    def _forget(self) -> None:
        self.past.append(self.nodes.pop())
        self.detach()

    def detach(self) -> None:
        """No loop device of ours is left. A namespace that ends holds them for a moment."""
        for image in self.volumes.glob("*.img"):

            def gone(image: Path = image) -> bool:
                for device in tool("losetup", "-n", "-O", "NAME", "-j", image).split():
                    subprocess.run(["losetup", "--detach", device], capture_output=True, timeout=PATIENCE)
                return not tool("losetup", "-n", "-O", "NAME", "-j", image)

            until(gone, f"{image} is no longer attached")

    def reports(self, job: str, kind: ReportKind | None = None) -> list[NodeReport]:
        """What agents of all nodes told of the job, oldest first."""
        found = []
        for node in [*self.past, *self.nodes]:
            for path in sorted((node.folder / "state/spool").glob("*.json")):
                report = Entry.model_validate_json(path.read_text()).report
                if report is not None and report.job_id == job and kind in (None, report.kind):
                    found.append(report)
        return found

    def remarks(self, job: str) -> list[str]:
        """The lines for the job's timeline."""
        return [report.reason for report in self.reports(job, ReportKind.REMARK)]

    def restored(self, job: str) -> int | None:
        """Which checkpoint its newest container was restored from; None for a clean start."""
        started = until(lambda: self.reports(job, ReportKind.STARTED), "the report of the start")
        number: int | None = started[-1].restored_from
        return number

    def close(self) -> None:
        """Remove all of it."""
        keep = os.environ.get("PERDURE_KEEP_LOGS")
        if keep:
            for log in self.folder.glob("node-*/*.log"):
                target = Path(keep) / self.folder.parent.name / log.parent.name
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(log, target)
        for node in self.nodes:
            node.close()
        self.detach()
        until(lambda: _remove_cgroups(self.cgroup), f"the cgroup {self.cgroup} is empty")


def _remove_cgroups(cgroup: str) -> bool:
    for folder in _cgroup_folders(cgroup):
        with contextlib.suppress(OSError):  # the dead are still being buried
            folder.rmdir()
    return not _cgroup_folders(cgroup)


@contextlib.contextmanager
def docker_bed(
    *,
    programs: Sequence[Path] = (),
    storage: str = "overlay2",
    dockerd_options: Sequence[str] = (),
    dockerd_environment: dict[str, str] | None = None,
    agent_environment: dict[str, str] | None = None,
) -> Iterator[Bed]:
    """A bed without nodes yet; all of it is removed afterwards, on failure too."""
    name = f"perdure-test-{secrets.token_hex(4)}"
    folder = Path("/var/tmp") / name
    (folder / "volumes").mkdir(parents=True)
    bed = Bed(
        folder,
        f"/{name}",
        tuple(programs),
        storage,
        dockerd_options,
        dockerd_environment or {},
        agent_environment or {},
    )
    bed.archives.append(image_archive(folder / "image.tar"))
    try:
        yield bed
    finally:
        bed.close()
        delete_tree(folder)
