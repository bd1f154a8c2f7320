"""What the engine's tests run on: one job with its volume, on one node after the other, in containers made as the
runtime makes them (output keeper, runc create or restore, start)."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from perdure.image.mounts import delete_tree, mounts_below
from perdure.settings import CRIU_PREFIX
from tests.integration.engine_places import Node, Volume, echo_server, set_network, tool, wait_for
from tests.patience import PATIENCE
from worker_agent import proc
from worker_agent.engine import Container, Freezer, Tools, criu_log, find_overlay
from worker_agent.engine.leavings import clean
from worker_agent.engine.overlay import seen
from worker_agent.engine.writable_layer import unmount_layer

JOBS = Path(__file__).parent / "jobs"
KEEPER = Path(__file__).parents[2] / "worker_agent/runtime/stdio_keeper.py"
TOOLS = Tools(criu=CRIU_PREFIX / "bin/criu", path_first=CRIU_PREFIX / "libexec")
MASKED = ("home", "root", "tmp", "run", "var/tmp", "var/lib")

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_CHILD_SUBREAPER = 36


class LaunchFailed(Exception):
    """runc could not create or restore a container."""


@dataclass
class Running:
    """A container with its keeper."""

    container: Container
    keeper: subprocess.Popen[bytes]
    pipes: tuple[int, int]
    started: bool = False

    def log(self, name: str = "stdout") -> bytes:
        return (self.container.job_root / "log" / name).read_bytes()

    def lines(self) -> int:
        return self.log().count(b"\n")

    def more_lines(self, count: int) -> None:
        """Until the job has written `count` lines more."""
        wanted = self.lines() + count
        wait_for(lambda: self.lines() >= wanted or not alive(self.container.init_pid), f"{count} more lines")
        assert self.lines() >= wanted, self.log("stderr").decode()

    def first_line(self) -> None:
        """Until the job has written a line at all: it may have done so long ago."""
        wait_for(lambda: self.lines() > 0 or not alive(self.container.init_pid), "the first line")
        assert self.lines() > 0, self.log("stderr").decode()

    def end(self) -> int:
        """Ask the job for its end (those of tests/integration/jobs go on until SIGTERM); its exit code."""
        os.kill(self.container.init_pid, signal.SIGTERM)
        return self.exit_code()

    def exit_code(self, seconds: float = PATIENCE) -> int:
        """Wait for the job's end, and until its output is complete."""
        descriptor = os.pidfd_open(self.container.init_pid)
        assert select.select([descriptor], [], [], seconds)[0], "the job did not end"
        os.close(descriptor)
        _, status = os.waitpid(self.container.init_pid, 0)
        self.keeper.wait(PATIENCE)
        return os.waitstatus_to_exitcode(status)


def alive(pid: int) -> bool:
    """Does it run (a zombie does not)?"""
    try:
        return proc.stat(pid)[0] not in "ZX"
    except OSError:
        return False


@dataclass
class Bed:
    """One job with its volume, on one node after the other. Everything it makes, `close` removes."""

    folder: Path
    volume: Volume
    cgroup: str
    runc_root: Path
    home: int
    """The network namespace that this thread comes back to when it leaves a node."""
    command: list[str] = field(default_factory=list)
    node: Node | None = None
    cables: int = 0
    """When not 0: nodes are connected to SERVER, and have this number in their address."""
    image: str = "/"
    """The root file system that is the containers' lowest layer."""
    jobs: Path = JOBS
    """What the containers see at /jobs."""
    mounts: list[dict[str, object]] = field(default_factory=list)
    """Mounts of config.json beside the usual ones."""
    process: dict[str, object] = field(default_factory=dict)
    """What config.json says about the process otherwise than usual."""
    launch_limit: float = PATIENCE
    """Seconds that runc gets to create or restore."""
    containers: list[Container] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)

    @classmethod
    def make(cls, mebibytes: int = 1500, *, reflink: bool = True, volume: type[Volume] = Volume) -> Bed:
        """Not below pytest's folder, which other runs of pytest tidy up: nothing must be deleted through our mounts."""
        assert _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        disk = Path(tempfile.mkdtemp(prefix="perdure-test-", dir="/var/tmp"))
        folder = disk / "bed"
        folder.mkdir()
        tool("mount", "-t", "tmpfs", "-o", "mode=755", "none", folder)
        tool("mount", "--make-private", folder)
        for name in MASKED:
            (folder / "mask" / name).mkdir(parents=True)
            os.setxattr(folder / "mask" / name, "trusted.overlay.opaque", b"y")
        made = volume(disk / "volume.img", folder / "job", mebibytes, reflink=reflink)
        made.attach()
        return cls(
            folder,
            made,
            f"/perdure-test-{secrets.token_hex(4)}",
            folder / "runc",
            os.open("/proc/thread-self/ns/net", os.O_RDONLY),
        )

    def new_node(self) -> None:
        """Leave the node for another one."""
        self.leave_node()
        self.node = Node()
        if self.cables:
            self.node.connect(self.cables)
            self.cables += 1
        self.node.enter()

    def change_node(self, *, move: bool = False) -> None:
        """The volume is taken to a new node (`move`: in another zone)."""
        unmount_layer(self.volume.root)
        self.volume.detach()
        if move:
            self.volume.move()
        self.new_node()
        self.volume.attach()

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """Nodes are connected to an echo server at SERVER. All of it is in a network namespace of this bed's own: beds
        of several test runs on one machine have the same addresses and must not meet."""
        self.leave_node()
        machine, place = self.home, Node()
        place.enter()
        self.home, self.cables = os.open("/proc/thread-self/ns/net", os.O_RDONLY), 1
        try:
            with echo_server():
                yield
        finally:
            self.leave_node()
            set_network(machine)
            os.close(self.home)
            self.home, self.cables = machine, 0
            place.remove()

    def leave_node(self) -> None:
        if self.node is not None:
            set_network(self.home)
            self.node.remove()
            self.node = None

    def container(self) -> Container:
        """A container as the container engine would have made it: a bundle, an overlay of its own at the root."""
        name = secrets.token_hex(32)
        place = self.folder / "containers" / name
        bundle, rootfs = place / "bundle", place / "bundle" / "rootfs"
        for part in (rootfs, place / "upper", place / "work"):
            part.mkdir(parents=True)
        layers = f"lowerdir={self.folder}/mask:{self.image},upperdir={place}/upper,workdir={place}/work"
        tool("mount", "-t", "overlay", "-o", layers, "overlay", rootfs)
        found = find_overlay(rootfs)
        assert found is not None and found.lower == (f"{self.folder}/mask", self.image), found
        container = Container(
            id=name,
            bundle=bundle,
            runc_root=str(self.runc_root),
            job_root=self.volume.root,
            work_dir=place / "criu",
            keeper_socket=place / "keeper.sock",
            rootfs=rootfs,
            lower_layers=found.lower,
            tools=TOOLS,
            cgroups_path=f"{self.cgroup}/{name}",
        )
        self.containers.append(container)
        (bundle / "config.json").write_text(json.dumps(self._config(container)))
        return container

    def _config(self, container: Container) -> dict[str, object]:
        binds = {"/data": (seen(self.volume.root, "data"), "rw"), "/jobs": (self.jobs, "ro")}
        fixed = [
            ("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
            ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
            ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            ("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
            ("/sys/fs/cgroup", "cgroup", "cgroup", ["nosuid", "noexec", "nodev", "relatime", "ro"]),
        ]
        names = ("destination", "type", "source", "options")
        mounts: list[dict[str, object]] = [dict(zip(names, mount, strict=True)) for mount in fixed]
        mounts += self.mounts
        mounts += [
            {"destination": place, "type": "bind", "source": str(source), "options": ["rbind", mode]}
            for place, (source, mode) in binds.items()
        ]
        capabilities = [
            f"CAP_{name}" for name in ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID", "MKNOD")
        ]
        sets = ("bounding", "effective", "permitted")
        return {
            "ociVersion": "1.0.2",
            "annotations": {"org.criu.config": str(container.criu_config)},
            "process": {
                "args": self.command,
                "cwd": "/",
                "env": ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"],
                "user": {"uid": 0, "gid": 0},
                "capabilities": dict.fromkeys(sets, capabilities),
                **self.process,
            },
            "root": {"path": str(container.rootfs)},
            "mounts": mounts,
            "linux": {
                "cgroupsPath": container.cgroups_path,
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
                "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            },
        }

    def _keeper(self, container: Container) -> Running:
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        here, there = socket.socketpair()
        argv = [
            "/usr/bin/python3",
            "-I",
            "-S",
            str(KEEPER),
            str(container.job_root / "log"),
            str(container.keeper_socket),
        ]
        descriptors = (out_read, err_read, there.fileno())
        with open(container.bundle / "forwarded", "wb") as reader:
            keeper = subprocess.Popen(
                [*argv, *map(str, descriptors)],
                pass_fds=descriptors,
                stdout=reader,
                stderr=reader,
                stdin=subprocess.DEVNULL,
            )
        for descriptor in descriptors[:2]:
            os.close(descriptor)
        there.close()
        with here:
            here.settimeout(PATIENCE)
            assert here.recv(64) == b"ready\n"
        running = Running(container, keeper, (out_write, err_write))
        self.running.append(running)
        return running

    def launch(self, container: Container, words: list[str]) -> Running:
        """`runc create` or `runc restore …` with a keeper's pipes; the first process exists afterwards."""
        running = self._keeper(container)
        pid_file = container.bundle / "pid"
        argv = [
            container.tools.runc,
            "--root",
            container.runc_root,
            "--log",
            str(container.bundle / "runc.log"),
            "--criu",
            str(TOOLS.criu),
        ]
        argv += [*words, "--bundle", str(container.bundle), "--pid-file", str(pid_file), container.id]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=running.pipes[0],
            stderr=running.pipes[1],
            env=TOOLS.environment(),
            start_new_session=True,
        )
        try:
            status = process.wait(self.launch_limit)
        except subprocess.TimeoutExpired:  # runc waits for ever once CRIU was killed
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        finally:
            for descriptor in running.pipes:
                os.close(descriptor)
        if status != 0:
            said = (container.bundle / "runc.log").read_text()[-500:]
            raise LaunchFailed(
                f"status {status}: {'; '.join(criu_log.errors(container.work_dir / 'restore.log'))} {said}"
            )
        running.container = container.with_init(int(pid_file.read_text()))
        return running

    def start(self, running: Running) -> Running:
        tool(running.container.tools.runc, "--root", self.runc_root, "start", running.container.id)
        running.started = True
        return running

    def kill(self, running: Running) -> None:
        """Everything of the container dies at once, as on a node that loses its power."""
        if running.container.freezer is not None:
            running.container.freezer.kill()
            wait_for(lambda: running.container.freezer is None or not running.container.freezer.pids(), "death")
        if running.container.init_pid:  # 0, which a failed restore leaves, would mean any child of the tests
            with contextlib.suppress(ChildProcessError):
                os.waitpid(running.container.init_pid, 0)
        running.keeper.kill()
        running.keeper.wait(PATIENCE)

    async def close(self) -> None:
        """Remove everything, whatever state a failed test left it in; a step that fails does not stop the others."""
        async with contextlib.AsyncExitStack() as steps:  # run from the last to the first
            steps.callback(os.close, self.home)
            steps.callback(self._remove_cgroups)
            steps.callback(delete_tree, self.folder.parent)
            steps.callback(tool, "umount", self.folder)
            steps.callback(self.volume.detach)
            steps.callback(self._unmount)
            steps.callback(self.leave_node)
            for running in self.running:
                steps.callback(self.kill, running)
            for container in self.containers:
                steps.push_async_callback(clean, container)

    def _unmount(self) -> None:
        for mount in mounts_below(self.folder):
            if mount.point != str(self.volume.root):
                tool("umount", mount.point)

    def _remove_cgroups(self) -> None:
        for hierarchy in Path("/sys/fs/cgroup").iterdir():
            for folder, _, _ in os.walk(hierarchy / self.cgroup.strip("/"), topdown=False):
                os.rmdir(folder)


def cgroups_seen(running: Running) -> set[str]:
    """The names of cgroup trees at /sys/fs/cgroup of a container, where what it sees is its own cgroup."""
    top = Path(f"/proc/{running.container.init_pid}/root/sys/fs/cgroup")
    lists = {place.parent.name: place.read_text().split() for place in top.glob("*/cgroup.procs")}
    return {name for name, pids in lists.items() if str(running.container.init_pid) in pids}


def freezer_of(running: Running) -> Freezer:
    assert running.container.freezer is not None
    return running.container.freezer
