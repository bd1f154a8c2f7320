"""One node for real: namespaces, a container run through runc, its end, a power loss, and nothing left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from localcloud.cgroups import Cgroup, hierarchies
from localcloud.linux import loop_devices_below, mount_table, run
from localcloud.node_link import (
    ContainerOptions,
    Exited,
    Mount,
    NodeEvent,
    NodeHandle,
    NodeSpec,
    Output,
    Ready,
    RunTask,
    SetEcsAgent,
    Started,
    StartFailed,
    StopTask,
    Task,
    Tmpfs,
    Ulimit,
)
from localcloud.nodes.images.catalogue import BuiltImage, Catalogue
from localcloud.nodes.inside.docker.api import DockerApi
from localcloud.nodes.launcher import LauncherOptions, NamespaceLauncher, remove_folder
from localcloud.nodes.network import FIRST_NODE, make_bridge, remove_bridge
from localcloud.stack.pool import free_disks, make_pool
from tests.patience import PATIENCE

pytestmark = pytest.mark.criu

STACK = f"test-node-{os.getpid()}"
CGROUP = f"/perdure/{STACK}"
FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2

Event = TypeVar("Event", Started, StartFailed, Exited)


class Node:
    """A launched node and everything it said."""

    def __init__(self, handle: NodeHandle, engine: str) -> None:
        self.handle = handle
        self.engine = engine
        self.said: list[NodeEvent] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for event in self.handle.link.events():
            with self._changed:
                self.said.append(event)
                self._changed.notify_all()

    def until(self, condition: Callable[[list[NodeEvent]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.said), PATIENCE), self.said

    def answer(self, kind: type[Event], container_id: str) -> Event:
        found: list[Event] = []

        def there(said: list[NodeEvent]) -> bool:
            found[:] = [event for event in said if isinstance(event, kind) and event.container_id == container_id]
            return bool(found)

        self.until(there)
        return found[0]

    def output(self, container_id: str, stream: str = "stdout") -> bytes:
        return b"".join(
            event.data
            for event in self.said
            if isinstance(event, Output) and (event.container_id, event.stream) == (container_id, stream)
        )

    def start(self, *command: str, **more: object) -> str:
        container_id = secrets.token_hex(32)
        task = Task.model_validate(
            {"container_id": container_id, "job_id": "j", "attempt": 1, "command": list(command), **more}
        )
        self.handle.link.send(RunTask(task=task))
        return container_id


@pytest.fixture(scope="module", params=["runc", "docker"])
def launcher(request: pytest.FixtureRequest) -> Iterator[NamespaceLauncher]:
    """A stack's ground without a cloud: folder, pool, bridge, cgroup; checked to be gone without a trace.

    Not in pytest's temporary folder: that is deleted without asking what is mounted there.
    """
    before = _traces()
    folder = Path("/var/lib/perdure-local") / STACK
    folder.mkdir(parents=True)
    subnet = make_bridge(STACK)
    group = Cgroup.at(CGROUP)
    try:
        yield NamespaceLauncher(
            LauncherOptions(
                cgroup=CGROUP,
                stacks_folder=folder.parent,
                pool=make_pool(folder),
                logs=folder / "logs",
                subnet=subnet.number,
                temporal_address=f"{subnet.gateway}:7233",
                with_agent=False,
                engine=request.param,
                images_folder=_tiny_image(folder / "images"),
            )
        )
    finally:
        group.kill()
        free_disks(folder)
        group.remove()
        remove_bridge(subnet.bridge)
        remove_folder(folder)
    assert _traces() == before


def test_the_bridges_own_address_stays_when_a_node_comes() -> None:
    """By itself a bridge takes the lowest address of its ports. Where a node that came or went changed it, the others
    went on with the one they knew, and reached nobody for half a minute."""
    subnet = make_bridge(f"{STACK}-address")
    try:
        before = _link_address(subnet.bridge)
        port = subnet.port_name(FIRST_NODE)
        lowest = ("address", "02:00:00:00:00:01")
        run(["ip", "link", "add", port, *lowest, "type", "veth", "peer", "name", f"{port}-peer"])
        run(["ip", "link", "set", port, "master", subnet.bridge, "up"])
        assert _link_address(subnet.bridge) == before
    finally:
        remove_bridge(subnet.bridge)


def _link_address(name: str) -> str:
    return Path(f"/sys/class/net/{name}/address").read_text().strip()


def _tiny_image(folder: Path) -> Path:
    """A folder of images with one, "tiny": a static program and a list of users."""
    catalogue = Catalogue(folder)
    image = BuiltImage(key="k", suite="s", architecture="a", packages=[], digest="sha256:0", size_bytes=1)
    rootfs = catalogue.rootfs(image)
    (rootfs / "bin").mkdir(parents=True)
    (rootfs / "etc").mkdir()
    (rootfs / "etc" / "passwd").write_text("worker:x:1234:1235::/:/bin/sh\n")
    shutil.copy("/usr/bin/tini-static", rootfs / "bin" / "tini")
    (rootfs.parent / "image.json").write_text(image.model_dump_json())
    catalogue.give_name("tiny", "k")
    return folder


def _traces() -> dict[str, set[str]]:
    """What of a stack could be left on this machine. Only names that are ours: others work here too."""
    return {
        "mounts": {str(entry.point) for entry in mount_table() if "test-node" in f"{entry.point}{entry.source}"},
        "loops": {str(backing) for backing in loop_devices_below(Path("/")).values() if "test-node" in str(backing)},
        "cgroups": {str(group) for root in hierarchies() for group in root.glob(CGROUP.lstrip("/"))},
        "links": {line for line in run(["ip", "-brief", "link"]).splitlines() if "test-node" in line},
    }


@pytest.fixture
def node(launcher: NamespaceLauncher) -> Iterator[Node]:
    """A node that is up; afterwards dead and swept."""
    handle = launcher.launch(_spec())
    try:
        node = Node(handle, launcher._options.engine)
        node.until(lambda said: Ready() in said)
        yield node
    finally:
        launcher.power_loss(handle)
        launcher.sweep(handle)


def _spec() -> NodeSpec:
    return NodeSpec(
        instance_id="i-" + secrets.token_hex(8),
        zone="us-east-1a",
        region="us-east-1",
        instance_type="c5.xlarge",
        vcpus=4,
        memory_mib=8192,
        imds_url="http://127.0.0.1:1",
        aws_endpoint_url="http://127.0.0.1:1",
    )


def test_a_job_runs_and_its_output_and_exit_code_come_back(node: Node) -> None:
    container = node.start(
        "sh", "-c", 'echo out; echo err >&2; echo "$WORD"; exit 7', environment={"WORD": "a;rm\n../b"}
    )
    assert node.answer(Exited, container).exit_code == 7
    assert node.output(container) == b"out\na;rm\n../b\n"
    assert node.output(container, "stderr") == b"err\n"
    kinds = [type(event) for event in node.said if getattr(event, "container_id", "") == container]
    assert kinds[0] in {Started, Output} and kinds[-1] is Exited and kinds.count(Started) == 1


def test_a_signal_is_128_plus_its_number(node: Node) -> None:
    container = node.start("sh", "-c", "kill -9 $$; sleep 60 & exec sh -c 'kill -15 $$; echo up; sleep 60'")
    # Not Started: for a moment more, runc itself is process 1, and ends with 2 at a SIGTERM.
    node.until(lambda _: node.output(container) == b"up\n")
    node.handle.link.send(StopTask(container_id=container, grace_seconds=0.5))
    assert node.answer(Exited, container).exit_code == 137


def test_a_job_sees_the_machine_but_not_its_private_folders(node: Node, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("shared")
    script = (
        "ls -A /home /root /tmp /run /var/tmp /var/lib/perdure /var/lib/perdure-local; cat /in/in; echo new > /in/out;"
        "echo x > /etc/perdure-test; cat /etc/perdure-test; stat -c %a /tmp; hostname; ls /sys/class/net"
    )
    container = node.start("sh", "-c", script, mounts=[Mount(source=str(tmp_path), destination="/in")])
    assert node.answer(Exited, container).exit_code == 0
    masked, seen = node.output(container).decode().split("shared")
    assert [line for line in masked.splitlines() if line and not line.endswith(":")] == []
    links = {"runc": ["eth0", "lo"], "docker": ["docker0", "eth0", "lo"]}[node.engine]
    assert seen.split() == ["x", "1777", "ip-" + node.handle.address.replace(".", "-"), *links]
    assert (tmp_path / "out").read_text() == "new\n"
    assert not Path("/etc/perdure-test").exists()


def test_a_job_runs_in_the_image_that_it_names(node: Node) -> None:
    container = node.start("tini", "--version", image="tiny", user="worker")
    assert node.answer(Exited, container).exit_code == 0
    assert node.output(container).startswith(b"tini version")
    container = node.start("sh", "-c", "true", image="tiny:latest")
    assert '"sh"' in node.answer(StartFailed, container).reason
    for name in ("no/such:image", "Not A Name"):
        container = node.start("true", image=name)
        reason = node.answer(StartFailed, container).reason
        assert reason.startswith("CannotPullContainerError: ") and name in reason


def test_output_is_byte_for_byte_and_in_order(node: Node) -> None:
    script = (
        "import os, sys\n"
        "for n in range(300):\n"
        "    os.write(1, bytes(range(256)) * (1 + n % 7)); os.write(2, b'%d\\r' % n)\n"
        "os.write(1, b'no line end')"
    )
    container = node.start("python3", "-c", script)
    assert node.answer(Exited, container).exit_code == 0
    expected = b"".join(bytes(range(256)) * (1 + n % 7) for n in range(300)) + b"no line end"
    assert node.output(container) == expected
    assert node.output(container, "stderr") == b"".join(b"%d\r" % n for n in range(300))


def test_a_job_gets_the_limits_and_file_systems_that_it_asks_for(node: Node) -> None:
    options = ContainerOptions(
        ulimits=[Ulimit(name="nofile", soft=100, hard=200)],
        tmpfs=[Tmpfs(destination="/scratch", size_mib=8, options=["mode=1777"])],
        shared_memory_mib=16,
        init=True,
        read_only_root=True,
    )
    script = (
        "ulimit -Sn; ulimit -Hn; stat -f -c %b*%S /dev/shm /scratch; touch /scratch/x; touch /etc/x || echo refused;"
        "head -zn1 /proc/1/cmdline"
    )
    container = node.start("bash", "-c", script, options=options)
    node.answer(Exited, container)
    *numbers, init = node.output(container).decode().replace("\0", "\n").split()
    assert numbers == ["100", "200", "4096*4096", "2048*4096", "refused"]
    assert init.endswith("init")


def test_one_that_is_stopped_while_it_is_created_ends_at_once(
    launcher: NamespaceLauncher, node: Node, tmp_path: Path
) -> None:
    with _slow_node(launcher, tmp_path) as held:
        container = held.start("true", start_timeout_seconds=1000)
        _wait_for(lambda: (tmp_path / "creating").exists())
        held.handle.link.send(StopTask(container_id=container))
        assert held.answer(StartFailed, container).reason.startswith("CannotStartContainerError: ")


def test_docker_knows_the_container_as_ecs_would_name_it(launcher: NamespaceLauncher, node: Node) -> None:
    if node.engine != "docker":
        pytest.skip("runc has no such books")
    container = node.start("sh", "-c", "echo words | tee /etc/new; exit 4", vcpus=2, memory_mib=100)
    node.answer(Exited, container)
    files = launcher._options.pool / "nodes" / node.handle.instance_id / "docker" / container / "upper"
    assert (files / "etc" / "new").read_text() == "words\n"  # what `perdure local cp` reads of an unprotected job
    with contextlib.closing(_docker(node)) as docker:
        found = docker.inspect(f"ecs-{container}")
        assert found["State"]["ExitCode"] == 4
        assert (found["HostConfig"]["Memory"], found["HostConfig"]["CpuShares"]) == (100 << 20, 2048)
        assert (found["Config"]["Image"], found["HostConfig"]["NetworkMode"]) == ("localhost/machine:latest", "host")
        socket = f"unix:///proc/{node.handle.init_pid}/root/run/docker.sock"
        assert run(["/usr/bin/docker", "-H", socket, "logs", f"ecs-{container}"]) == "words\n"
        docker.remove(found["Id"])
        docker.remove(found["Id"])  # idempotent
        removed = node.start("sleep", "1000")
        node.answer(Started, removed)
        docker.remove(docker.inspect(f"ecs-{removed}")["Id"])
    assert node.answer(Exited, removed).exit_code == 137


def test_a_killed_dockerd_takes_its_containers_along_and_comes_back(node: Node) -> None:
    if node.engine != "docker":
        pytest.skip("there is no dockerd")
    container = node.start("sleep", "1000")
    node.answer(Started, container)
    pid_file = Path(f"/proc/{node.handle.init_pid}/root/run/localcloud/docker.pid")
    killed = pid_file.read_text()
    run(["nsenter", f"--pid=/proc/{node.handle.init_pid}/ns/pid", "kill", "-KILL", killed])
    assert node.answer(Exited, container).exit_code != 0
    assert pid_file.read_text() != killed
    container = node.start("sh", "-c", "exit 3")
    assert node.answer(Exited, container).exit_code == 3


def test_what_cannot_start_says_why(node: Node) -> None:
    container = node.start("/no/such/program")
    reason = node.answer(StartFailed, container).reason
    assert reason.startswith("CannotStartContainerError: ") and "/no/such/program" in reason
    container = node.start("echo", "a\0b")
    assert node.answer(StartFailed, container).reason.startswith("CannotCreateContainerError: ")


def test_a_start_that_takes_too_long_is_given_up(launcher: NamespaceLauncher, node: Node, tmp_path: Path) -> None:
    with _slow_node(launcher, tmp_path) as held:
        container = held.start("true", start_timeout_seconds=1)
        assert held.answer(StartFailed, container).reason == (
            "DockerTimeoutError: Could not transition to started; timed out after waiting 0m1s"
        )


@contextlib.contextmanager
def _slow_node(launcher: NamespaceLauncher, folder: Path) -> Iterator[Node]:
    """A node whose runtime never finishes a `create`; it says so by the file `creating`."""
    slow = folder / "slow-runtime"
    slow.write_text(
        f'#!/bin/sh\ncase "$*" in *create*) touch {folder}/creating; sleep 1000;; *) exec runc "$@";; esac\n'
    )
    slow.chmod(0o755)
    other = NamespaceLauncher(launcher._options.model_copy(update={"runtime": str(slow)}))
    other._last_host = 100
    handle = other.launch(_spec())
    try:
        node = Node(handle, launcher._options.engine)
        node.until(lambda said: Ready() in said)
        yield node
    finally:
        other.power_loss(handle)
        other.sweep(handle)


def test_too_much_memory_is_ecs_out_of_memory(node: Node) -> None:
    eat = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    container = node.start("python3", "-c", eat, memory_mib=64)
    exited = node.answer(Exited, container)
    assert (exited.exit_code, exited.reason) == (137, "OutOfMemoryError: Container killed due to memory usage")


def test_stop_is_sigterm_first(node: Node) -> None:
    container = node.start("sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.05; done")
    node.until(lambda said: node.output(container) == b"up\n")
    node.handle.link.send(StopTask(container_id=container))
    assert node.answer(Exited, container).exit_code == 3
    assert node.output(container) == b"up\nbye\n"


def test_a_stopped_ecs_agent_reports_nothing_until_it_runs_again(node: Node, tmp_path: Path) -> None:
    container = node.start(
        *("sh", "-c", "echo up; while [ ! -e /go/go ]; do sleep 0.05; done; exit 5"),
        mounts=[Mount(source=str(tmp_path), destination="/go")],
    )
    node.until(lambda said: node.output(container) == b"up\n")
    node.answer(Started, container)
    node.handle.link.send(SetEcsAgent(running=False))
    later = node.start("true")
    group = _group(node, container)
    (tmp_path / "go").write_text("")
    _wait_for(lambda: not group.folders[0].exists())
    assert not any(isinstance(event, Exited) for event in node.said)
    node.handle.link.send(SetEcsAgent(running=True))
    assert node.answer(Exited, container).exit_code == 5
    assert node.answer(Exited, later).exit_code == 0


def test_power_loss_kills_what_is_frozen_and_keeps_only_what_was_synced(
    launcher: NamespaceLauncher, tmp_path: Path
) -> None:
    handle = launcher.launch(_spec())
    with contextlib.ExitStack() as undo:
        undo.callback(launcher.sweep, handle)
        undo.callback(launcher.power_loss, handle)
        node = Node(handle, launcher._options.engine)
        container = node.start("sh", "-c", "echo up; exec sleep 1000")
        node.until(lambda said: node.output(container) == b"up\n")
        image = launcher._options.pool / "volumes" / "v.img"
        run(["truncate", "--size", "400M", str(image)])
        run(["mkfs.xfs", "-q", str(image)])
        loop = run(["losetup", "--find", "--show", str(image)]).strip()
        with contextlib.ExitStack() as held:
            held.callback(run, ["losetup", "--detach", loop])
            _write_through_an_overlay(handle, loop)
            volume = os.open(f"/proc/{handle.init_pid}/root/var/lib/perdure/j", os.O_RDONLY)
            held.callback(os.close, volume)
            assert _group(node, container).freeze(5)
            running = set(_group(node, "").pids())
            launcher.power_loss(handle, lambda: _shut_down(volume))
            assert running and not any(Path(f"/proc/{pid}").exists() for pid in running)
            launcher.power_loss(handle)  # idempotent
        _wait_for(lambda: Path(loop) not in loop_devices_below(image))
        after = tmp_path / "after"
        after.mkdir()
        run(["mount", "-o", "loop", str(image), str(after)])
        try:
            assert (after / "synced").read_text() == "kept\n"
            assert not (after / "up" / "unsynced").exists()
        finally:
            run(["umount", str(after)])
    launcher.sweep(handle)  # idempotent
    assert not (launcher._options.pool / "nodes" / handle.instance_id).exists()


def _shut_down(volume: int) -> None:
    fcntl.ioctl(volume, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))


def _write_through_an_overlay(handle: NodeHandle, loop: str) -> None:
    """As a job's layer: one file synced, one only written, through an overlay whose upper lies on the volume."""
    inside = ["nsenter", f"--mount=/proc/{handle.init_pid}/ns/mnt"]
    script = (
        f"mkdir -p /var/lib/perdure/j && mount {loop} /var/lib/perdure/j && cd /var/lib/perdure/j"
        " && echo kept > synced && mkdir up work /run/o && sync -f ."
        " && mount -t overlay overlay -o lowerdir=/run/localcloud/root,upperdir=$PWD/up,workdir=$PWD/work /run/o"
        " && echo lost > /run/o/unsynced"
    )
    run([*inside, "sh", "-c", script])


def test_a_node_does_not_outlive_its_cloud(launcher: NamespaceLauncher) -> None:
    handle = launcher.launch(_spec())
    try:
        node = Node(handle, launcher._options.engine)
        container = node.start("sleep", "1000")
        node.answer(Started, container)
        _group(node, container).freeze(5)
        group = _group(node, "")
        handle.link.close()
        _wait_for(lambda: not group.pids())
    finally:
        launcher.power_loss(handle)
        launcher.sweep(handle)


def _group(node: Node, container_id: str) -> Cgroup:
    """The group of a container, or of the whole node."""
    root = Cgroup.at(CGROUP).below(node.handle.instance_id)
    if container_id and node.engine == "docker":
        with contextlib.closing(_docker(node)) as docker:
            container_id = docker.inspect(f"ecs-{container_id}")["Id"]
    return root.below(f"containers/{container_id}") if container_id else root


def _docker(node: Node) -> DockerApi:
    """The node's dockerd, as anyone in the node could ask it."""
    return DockerApi(Path(f"/proc/{node.handle.init_pid}/root/run/docker.sock"))


def _wait_for(condition: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(int(PATIENCE / 0.02)):
        if condition():
            return
        done.wait(0.02)
    raise AssertionError("waited in vain")
