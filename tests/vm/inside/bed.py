"""Jobs in containers through the engine, in the virtual machine. Nothing is tidied up: all ends with the machine."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

from perdure.domain.checkpoints import CheckpointKind, Manifest
from tests.integration import engine_bed
from tests.integration.engine_bed import Bed, Running, alive
from tests.integration.engine_places import tool, wait_for
from tests.patience import PATIENCE
from worker_agent.engine import (
    Container,
    Identity,
    continue_restored,
    ensure_layout,
    finish_restore,
    prepare_fresh,
    prepare_restore,
    take_checkpoint,
)
from worker_agent.engine.lazy import daemon as lazy
from worker_agent.engine.writable_layer import unmount_layer

_LONG = 120.0
JOB_ID = "11111111-2222-3333-4444-555555555555"
INSIDE = Path(__file__).parent
LIMITS: dict[str, Any] = {
    "memory": {"limit": 256 << 20, "swap": 256 << 20},
    "pids": {"limit": 77},
    "cpu": {"shares": 512, "quota": 150000, "period": 100000},
}
KNOBS = ("memory.max", "memory.swap.max", "pids.max", "cpu.max", "cpu.weight")


def note(message: object) -> None:
    """Shown with the test's output."""
    with open("/dev/ttyS1", "wb", buffering=0) as line:
        line.write(json.dumps({"note": message}).encode() + b"\n")


def note_processes() -> None:
    """What each process of an operation waits for."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (folder / "comm").read_text().strip()
            if name.startswith(("runc", "criu", "exe")):
                tasks = [(task / "stack").read_text().split("\n")[:4] for task in (folder / "task").iterdir()]
                note({"hangs": name, "pid": folder.name, "at": tasks[:3]})


class Scene:
    """One job on one volume, in one container after the other."""

    def __init__(self, command: list[str], *, user: dict[str, object] | None = None, volume_mib: int = 600) -> None:
        self.bed = Bed.make(volume_mib)
        self.bed.launch_limit = PATIENCE
        self.bed.jobs = INSIDE
        self.bed.command = command
        if user:
            self.bed.process = {"user": user}
        self.bed.new_node()
        self.epoch = 0
        self.kept = 2
        self.full_every = 8
        self.predump = False

    def _container(self) -> Container:
        container = self.bed.container()
        path = container.bundle / "config.json"
        config = json.loads(path.read_text())
        config["linux"]["resources"] |= LIMITS
        path.write_text(json.dumps(config))
        return container

    async def fresh(self) -> Running:
        self.epoch += 1
        ensure_layout(self.bed.volume.root)
        container = self._container()
        await prepare_fresh(container, epoch=self.epoch)
        return self.bed.start(self._launch(container, ["create"]))

    def _launch(self, container: Container, words: list[str]) -> Running:
        """As the bed does it; what hangs is shown before it is killed."""
        watch = threading.Timer(_LONG, note_processes)
        watch.start()
        try:
            return self.bed.launch(container, words)
        except engine_bed.LaunchFailed:
            for log in (container.job_root / "log/stderr", container.work_dir / "restore.log"):
                if log.exists():
                    note({log.name: log.read_text(errors="replace")[-1500:]})
            note({"kernel": subprocess.run(["dmesg"], capture_output=True, text=True, check=False).stdout[-1500:]})
            raise
        finally:
            watch.cancel()

    async def restored(self, number: int, *, lazily: bool = False) -> Running:
        """The job from a checkpoint in a new container, under a new cgroup path, going on. `lazily`: before all of its
        memory is there."""
        self.epoch += 1
        container = self._container()
        prepared = await prepare_restore(
            container, number, epoch=self.epoch, job_id=JOB_ID, pages_later=lazily, lazily=lazily
        )
        assert not prepared.not_lazy, prepared.not_lazy
        running = self._launch(container, ["restore", *prepared.argv])
        assert await lazy.is_sound(container) == lazily
        await finish_restore(running.container, prepared.manifest)
        await continue_restored(running.container, prepared.manifest)
        return running

    async def checkpoint(self, running: Running, kind: CheckpointKind = CheckpointKind.PERIODIC) -> Manifest:
        manifest = await take_checkpoint(
            running.container,
            Identity(JOB_ID, self.epoch, self.epoch, f"i-{self.epoch:017x}"),
            kind=kind,
            limit_seconds=PATIENCE,
            keep=self.kept,
            reserve_bytes=32 << 20,
            full_every=self.full_every,
            predump=self.predump,
        )
        note(summary(manifest))
        return manifest

    def go_on(self, running: Running, rounds: int) -> None:
        """Let a job of pages.py work up to that round, and wait for it."""
        fresh = self.bed.volume.root / "seen/data" / "gate.new"
        fresh.write_text(str(rounds))
        fresh.rename(self.bed.volume.root / "seen/data" / "gate")
        wait_for(lambda: running.lines() > rounds or not alive(running.container.init_pid), f"round {rounds}")
        assert running.lines() > rounds, running.log("stderr").decode()

    def die(self, running: Running) -> None:
        """The container dies at once; the volume goes to another node."""
        self.bed.kill(running)
        unmount_layer(running.container.job_root)
        tool("umount", "-l", running.container.rootfs)
        self.bed.change_node()


def summary(manifest: Manifest) -> dict[str, object]:
    return {
        "number": manifest.number,
        "full": manifest.full,
        "KiB": manifest.image_bytes >> 10,
        "written KiB": (manifest.written_bytes or 0) >> 10,
        "frozen": round(manifest.phases.get("frozen", 0), 2),
        "phases": {name: round(seconds, 2) for name, seconds in manifest.phases.items() if seconds > 0.1},
    }


def pages(mebibytes: int, rounds: int, touched: int = 50) -> list[str]:
    """The job of pages.py, as its container calls it."""
    return ["/usr/bin/python3", "/jobs/pages.py", str(mebibytes), str(rounds), str(touched), "/data/gate"]


def uninterrupted(command: list[str]) -> list[bytes]:
    """What pages.py writes when nothing happens to it, but for its first line, which says whose it is."""
    argv = [command[0], str(INSIDE / "pages.py"), *command[2:5]]
    return subprocess.run(argv, capture_output=True, check=True, timeout=PATIENCE).stdout.splitlines()[1:]


def written(running: Running) -> list[bytes]:
    """What it wrote, the same way."""
    return running.log().splitlines()[1:]


def limits(running: Running) -> dict[str, str]:
    """The limits as the kernel has them."""
    assert running.container.freezer is not None
    return {name: (running.container.freezer.path / name).read_text().strip() for name in KNOBS}


def members(folder: Path) -> list[int]:
    return [int(word) for word in (folder / "cgroup.procs").read_text().split()] if folder.is_dir() else []


def status(pid: int, *names: str) -> dict[str, str]:
    """Fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {name: found[name].strip() for name in names}


def here(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")
