"""A throw-away container for one command: made as a protected job's is, looked at while it runs, and gone afterwards.

Its root is this machine's, under an overlay, so that what it writes is gone with it. All mounts are made in a mount
namespace of this process: they go when it does, whatever happens. With `own_network` each life of the container (before
and after a restore) has a network of its own with loopback only, as on two nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perdure.domain.checkpoints import CheckpointKind, Manifest
from perdure.domain.errors import CommandFailed, ConfigurationInvalid, PerdureError, RestoreFailed
from perdure.image.mounts import delete_tree, mounts_below
from worker_agent import engine
from worker_agent.container.seccomp import refuse_io_uring
from worker_agent.engine.commands import run

_NEWNS, _NEWNET, _REC, _PRIVATE = 0x00020000, 0x40000000, 0x4000, 0x40000
_LIMIT = 60.0
_VOLUME = "64G"
"""Of the sparse file that stands for the job volume: what the command and a try write, no more."""
_RESERVE = 32 << 20
_HIDDEN = ("run", "var/lib/docker", "var/lib/containerd", "var/lib/perdure", "var/lib/perdure-local")
_CAPABILITIES = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
]  # fmt: skip
"""Docker's default set (moby, oci/caps/defaults.go)."""
_JOB = "preflight"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class ThrowAway:
    """One command's container. `close` removes all of it."""

    command: list[str]
    tools: engine.Tools
    io_uring: bool
    own_network: bool
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="perdure-preflight-", dir="/var/tmp")))
    container: engine.Container | None = None
    epoch: int = 0
    pumps: list[threading.Thread] = field(default_factory=list)

    @property
    def job_root(self) -> Path:
        return self.folder / "job"

    @property
    def running(self) -> engine.Container:
        """The container, once it was started."""
        assert self.container is not None
        return self.container

    def pids(self) -> list[int]:
        """All of its processes; empty once it has ended."""
        return self.running.freezer.pids() if self.running.freezer is not None else []

    async def open(self) -> None:
        """The namespace and the volume. PerdureError if this machine cannot have them."""
        _call(_libc.unshare(_NEWNS), "a mount namespace")
        _call(_libc.mount(b"none", b"/", None, _REC | _PRIVATE, None), "private mounts")
        self.job_root.mkdir()
        image = self.folder / "volume.img"
        await run(["truncate", "--size", _VOLUME, str(image)], limit_seconds=_LIMIT)
        await run(["mkfs.xfs", "-q", str(image)], limit_seconds=_LIMIT)
        await run(["mount", "-o", "loop,nouuid", str(image), str(self.job_root)], limit_seconds=_LIMIT)
        image.unlink()
        await asyncio.to_thread(engine.ensure_layout, self.job_root)

    async def start(self) -> None:
        """The command runs. ConfigurationInvalid if it cannot be started."""
        self._new_network()
        container = await self._make()
        await engine.prepare_fresh(container, epoch=self.epoch)
        try:
            await self._launch(container, "create")
        except CommandFailed as problem:
            said = problem.stderr.strip().rpartition("msg=")[2][:300]
            raise ConfigurationInvalid(f"the command cannot be started: {said}") from problem
        await run([*_runc(container), "start", container.id], limit_seconds=_LIMIT, env=container.tools.environment())

    async def save(self) -> Manifest:
        """A checkpoint; the command runs on. CheckpointFailed says what stands in the way."""
        identity = engine.Identity(_JOB, epoch=self.epoch, attempt=1, instance_id=_JOB)
        return await engine.take_checkpoint(
            self.running, identity, kind=CheckpointKind.REQUESTED, limit_seconds=600, keep=1, reserve_bytes=_RESERVE
        )

    async def restore(self, manifest: Manifest) -> None:
        """The command is killed, brought back from its checkpoint and goes on. RestoreFailed says why it did not."""
        await self._end(self.running)
        self._new_network()
        container = await self._make()
        prepared = await engine.prepare_restore(container, manifest.number, epoch=self.epoch, job_id=_JOB)
        try:
            await self._launch(container, "restore", *prepared.argv)
        except CommandFailed as problem:
            raise engine.restore_failure(container, problem.stderr) from problem
        await engine.finish_restore(self.running, prepared.manifest)
        await engine.continue_restored(self.running, prepared.manifest)
        await asyncio.sleep(1.0)  # a job that dies of its restore does so at once
        if not self.pids():
            raise RestoreFailed("the command was restored, but ended within a second", "continue")

    async def close(self) -> None:
        """Everything away; a step that fails does not stop the others."""
        async with contextlib.AsyncExitStack() as steps:  # run from the last to the first
            steps.callback(delete_tree, self.folder)
            steps.push_async_callback(_unmount_below, self.folder)
            if self.container is not None:
                steps.push_async_callback(self._end, self.container)

    async def _end(self, container: engine.Container) -> None:
        await engine.clean(container)
        for pump in self.pumps:
            await asyncio.to_thread(pump.join, _LIMIT)
        self.pumps.clear()

    def _new_network(self) -> None:
        if self.own_network:
            _call(_libc.unshare(_NEWNET), "a network namespace")

    async def _make(self) -> engine.Container:
        """A bundle with an overlay over this machine's root, as a container engine makes it."""
        self.epoch += 1
        name = secrets.token_hex(32)
        place = self.folder / "containers" / str(self.epoch)
        rootfs = place / "rootfs"
        mask = self.folder / "mask"
        for part in (rootfs, place / "upper", place / "work"):
            part.mkdir(parents=True)
        if self.epoch == 1:
            await run(["mount", "-t", "tmpfs", "none", str(self._made(mask))], limit_seconds=_LIMIT)
            for hidden in _HIDDEN:
                os.setxattr(self._made(mask / hidden), "trusted.overlay.opaque", b"y")
        if self.own_network:
            await run(["ip", "link", "set", "lo", "up"], limit_seconds=_LIMIT)
        layers = f"lowerdir={mask}:/,upperdir={self._made(self.job_root / 'engine' / str(self.epoch) / 'upper')},"
        layers += f"workdir={self._made(self.job_root / 'engine' / str(self.epoch) / 'work')}"
        await run(["mount", "-t", "overlay", "-o", layers, "overlay", str(rootfs)], limit_seconds=_LIMIT)
        found = engine.find_overlay(rootfs)
        assert found is not None
        container = engine.Container(
            id=name,
            bundle=place,
            runc_root=str(self.folder / "runc"),
            job_root=self.job_root,
            work_dir=place / "criu",
            keeper_socket=place / "keeper",
            rootfs=rootfs,
            lower_layers=found.lower,
            tools=self.tools,
            cgroups_path=f"/perdure-preflight-{name[:12]}",
        )
        (place / "config.json").write_text(json.dumps(self._config(container)))
        self.container = container
        return container

    @staticmethod
    def _made(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _config(self, container: engine.Container) -> dict[str, Any]:
        fixed = [
            ("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
            ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
            ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
            ("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777"]),
            ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
            ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", "ro"]),
        ]
        keys = ("destination", "type", "source", "options")
        config: dict[str, Any] = {
            "ociVersion": "1.0.2",
            "annotations": {"org.criu.config": str(container.criu_config)},
            "process": {
                "args": self.command,
                "cwd": os.getcwd(),
                "env": [f"{name}={value}" for name, value in os.environ.items()],
                "user": {"uid": 0, "gid": 0},
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
            },
            "root": {"path": str(container.rootfs)},
            "mounts": [dict(zip(keys, mount, strict=True)) for mount in fixed] + self._own_folder(),
            "linux": {
                "cgroupsPath": container.cgroups_path,
                "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")],
                "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            },
        }
        if not self.io_uring:
            refuse_io_uring(config, os.uname().machine)
        return config

    def _own_folder(self) -> list[dict[str, Any]]:
        """The working folder, where it is not on the root file system (an overlay shows that alone): read-only."""
        here = os.getcwd()
        if os.stat(here).st_dev == os.stat("/").st_dev:
            return []
        return [{"destination": here, "type": "bind", "source": here, "options": ["rbind", "ro"]}]

    async def _launch(self, container: engine.Container, *words: str) -> None:
        pid_file = container.bundle / "pid"
        argv = [*_runc(container), *words, "--bundle", str(container.bundle), "--pid-file", str(pid_file), container.id]
        ends = []
        for name in ("stdout", "stderr"):
            reader, writer = os.pipe()
            log = self.job_root / "log" / name
            pump = threading.Thread(target=_pump, args=(reader, log), daemon=True)
            pump.start()
            self.pumps.append(pump)
            ends.append(writer)
        said = container.bundle / "runc.log"
        try:
            process = await asyncio.create_subprocess_exec(
                *argv[:1],
                "--log",
                str(said),
                *argv[1:],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=ends[0],
                stderr=ends[1],
                env=container.tools.environment(),
                start_new_session=True,
            )
            status = await asyncio.wait_for(process.wait(), _LIMIT)
        finally:
            for end in ends:
                os.close(end)
        if status != 0:
            raise CommandFailed(argv, status, said.read_text("utf-8", "replace") if said.exists() else "")
        self.container = container.with_init(int(pid_file.read_text()))


def _pump(reader: int, log: Path) -> None:
    """What the command says goes to its log (a checkpoint notes how long that is) and to our stderr: stdout is for the
    verdict."""
    target = sys.stderr.buffer
    with open(reader, "rb", buffering=0) as source, open(log, "ab", buffering=0) as file:
        while data := source.read(65536):
            file.write(data)
            with contextlib.suppress(BrokenPipeError):
                target.write(data)
                target.flush()


def _runc(container: engine.Container) -> list[str]:
    return [container.tools.runc, "--root", container.runc_root, "--criu", str(container.tools.criu)]


async def _unmount_below(folder: Path) -> None:
    for mount in mounts_below(folder):
        await run(["umount", mount.point], limit_seconds=_LIMIT)


def _call(result: int, what: str) -> None:
    if result != 0:
        raise PerdureError(f"this process cannot have {what}: {os.strerror(ctypes.get_errno())}")


@contextlib.asynccontextmanager
async def throw_away(
    command: list[str], tools: engine.Tools, *, io_uring: bool, own_network: bool
) -> AsyncIterator[ThrowAway]:
    """The command's container, running. Changes this process's namespaces: for a program that does nothing else."""
    made = ThrowAway(command, tools, io_uring, own_network)
    try:
        await made.open()
        await made.start()
        yield made
    finally:
        await made.close()
