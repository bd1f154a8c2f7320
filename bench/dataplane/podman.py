"""The same load in a container of podman, which is checkpointed with `podman container checkpoint --export`.

Debian's package podman is wanted; the CRIU is ours. Its storage and its archive lie on the same volume as the job.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.dataplane.bed import Job, order
from perdure.image.disk import syncfs
from perdure.image.mounts import delete_tree
from tests.integration.engine_places import tool, wait_for


class PodmanJob:
    """One container. `close` removes all of it."""

    def __init__(self, job: Job) -> None:
        self._job, self._orders = job, 0
        self._volume = job.bed.volume.root
        self._place = self._volume / "podman"
        self._root = job.bed.folder / "podman"
        for folder in ("data", "storage", "export"):
            (self._place / folder).mkdir(parents=True)
        for folder in ("rootfs", "upper", "work", "run"):
            (self._root / folder).mkdir(parents=True)
        layers = f"lowerdir={job.bed.folder}/mask:/,upperdir={self._root}/upper,workdir={self._root}/work"
        tool("mount", "-t", "overlay", "-o", layers, "overlay", self._root / "rootfs")
        self._name = f"perdure-bench-{secrets.token_hex(3)}"
        binds = {self._place / "data": "/data", job.bed.jobs: "/jobs"}
        volumes = [word for source, to in binds.items() for word in ("--volume", f"{source}:{to}")]
        command = ["python3", "/jobs/memory.py", *job.words]
        options = ["--detach", "--name", self._name, "--network", "host", "--cgroupns", "host", *volumes]
        options += ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]  # its defaults may exceed the host's
        self._podman("run", *options, "--log-driver", "k8s-file", "--rootfs", self._root / "rootfs", *command)
        wait_for(lambda: self._lines() > 0, "podman's load", seconds=400)

    def _podman(self, *words: str | Path) -> str:
        places = ["--root", self._place / "storage", "--runroot", self._root / "run", "--tmpdir", self._root / "run"]
        engine = ["--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", shutil.which("runc") or ""]
        criu = self._job.bed.containers[0].tools.criu.parent
        environment = {**os.environ, "PATH": f"{criu}:{os.environ['PATH']}"}
        argv = [str(word) for word in ("podman", *places, *engine, *words)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=600, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)}: {done.stderr}")
        return done.stdout

    def _lines(self) -> int:
        return len(self._podman("logs", self._name).splitlines())

    def change(self) -> None:
        """As the other job does."""
        self._orders += 1
        order(self._place / "data", self._orders, self._job.arguments)
        wait_for(lambda: self._lines() > self._orders, "the change", seconds=400, pause=0.5)

    def checkpoint(self) -> dict[str, Any]:
        """Export one. Blocks."""
        archive = self._place / "export" / "checkpoint.tar.zst"
        syncfs(self._volume)
        begun = time.monotonic()
        words = ["--leave-running", "--compress", "zstd", "--ignore-rootfs", "--ignore-volumes", "--file-locks"]
        said = self._podman("container", "checkpoint", "--print-stats", *words, "--export", archive, self._name)
        syncfs(self._volume)
        durable, size = time.monotonic() - begun, archive.stat().st_size
        archive.unlink()
        frozen = json.loads(said)["container_statistics"][0]["criu_statistics"]["frozen_time"] / 1e6
        return {"frozen": frozen, "durable": durable, "written": size}

    def close(self) -> None:
        """Nothing of it stays."""
        self._podman("rm", "--force", "--time", "0", self._name)
        for mount in (self._place / "storage/overlay", self._place / "storage"):
            subprocess.run(["umount", str(mount)], capture_output=True, check=False)
        tool("umount", self._root / "rootfs")
        delete_tree(self._place)
