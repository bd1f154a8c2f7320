"""A test with CRIU and runc alone, where it stands: what may be expected of anybody who uses them.

The container is as the product's (same layers, capabilities, mounts), saved with the options that the test's own
description asks for, ended, and restored on the same machine with the same file system and network.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from localcloud.linux import loop_devices_below
from localcloud.node_link import Mount, Task
from localcloud.nodes.inside.bundle import container_config, make_mask_layer
from perdure.image.mounts import delete_tree
from perdure.settings import CRIU_PREFIX
from perdure.waiting import until
from tests.conformance.courses import EXCHANGE, GROUP, PROGRAMS, SCRIPT, Outcome, Result, Results
from tests.conformance.zdtm import Zdtm, as_json, programs
from tests.integration.engine_places import Node

MEBIBYTES = 2000
LIMIT, RESULT_LIMIT = 60.0, 120.0
_NOISE = re.compile("cgroupd|RLIMIT_NOFILE for self")
"""Errors that CRIU tells and goes on."""
CRIU = CRIU_PREFIX / "bin/criu"


def run_bare(tests: Sequence[Zdtm], privileged: Callable[[str], bool]) -> Results:
    """What becomes of each test."""
    results = {}
    with _disk() as folder:
        for test in tests:
            with _network() as network, _Container(folder, test, privileged(test.name), network) as container:
                results[test.name] = container.through()
    return results


@contextlib.contextmanager
def _network() -> Iterator[str]:
    """A network namespace to run in, as a node has one: nothing reaches the machine's own."""
    node = Node()
    try:
        yield f"/run/netns/{node.name}"
    finally:
        node.remove()


@contextlib.contextmanager
def _disk() -> Iterator[Path]:
    """A file system as a job volume has it, for the containers' layers: the mask must not lie on the machine's own."""
    place = Path(tempfile.mkdtemp(prefix="perdure-conformance-", dir="/var/tmp"))
    image, folder = place / "disk.img", place / "disk"
    folder.mkdir()
    try:
        with image.open("wb") as file:
            file.truncate(MEBIBYTES << 20)
        _must("mkfs.xfs", "-q", "-m", "reflink=1", image)
        _must("mount", "-o", "loop,noatime", image, folder)
        _must("mount", "--make-private", folder)
        make_mask_layer(folder / "mask")
        (folder / "machine").mkdir()
        yield folder
    finally:
        subprocess.run(["umount", "--recursive", folder], check=False, capture_output=True)
        for device in loop_devices_below(place):
            subprocess.run(["losetup", "--detach", str(device)], check=False, capture_output=True)
        delete_tree(place)


class _Container:
    """One container with one test in it; gone when the block ends."""

    def __init__(self, disk: Path, test: Zdtm, privileged: bool, network: str) -> None:
        self._test, self._privileged, self._network = test, privileged, network
        self._name = f"bare-{secrets.token_hex(6)}"
        self._place = disk / self._name
        self._exchange, self._images = self._place / "exchange", self._place / "images"
        self._log = self._place / "log"

    def __enter__(self) -> _Container:
        for folder in (
            self._exchange,
            self._images,
            self._place / "rootfs",
            self._place / "upper",
            self._place / "work",
        ):
            folder.mkdir(parents=True)
        mask = self._place.parent / "mask"
        layers = f"lowerdir={mask}:/,upperdir={self._place}/upper,workdir={self._place}/work"
        _must("mount", "-t", "overlay", "-o", layers, "overlay", self._place / "rootfs")
        (self._exchange / "tests.json").write_text(as_json([self._test]))
        (self._place / "config.json").write_text(json.dumps(self._config()))
        return self

    def __exit__(self, *problem: object) -> None:
        self._runc("delete", "--force", self._name)
        subprocess.run(["umount", "--recursive", self._place / "rootfs"], check=False, capture_output=True)
        with contextlib.suppress(OSError):
            delete_tree(self._place)

    def _config(self) -> dict[str, object]:
        pairs = ((self._exchange, EXCHANGE), (programs(), PROGRAMS), (GROUP.parent, SCRIPT))
        task = Task(
            container_id=secrets.token_hex(32),
            job_id=self._name,
            attempt=1,
            command=["/usr/bin/python3", "-I", "-S", f"{SCRIPT}/{GROUP.name}", EXCHANGE, PROGRAMS],
            memory_mib=6144,
            mounts=[Mount(source=str(source), destination=place) for source, place in pairs],
            privileged=self._privileged,
        )
        config = container_config(task, cgroup=f"/{self._name}", host_name=self._name)
        options = self._place / "criu.conf"
        options.write_text(
            "\n".join(["ghost-limit 1073741824", "link-remap", "force-irmap", "network-lock nftables", ""])
        )
        if self._privileged:
            config["linux"]["namespaces"].append({"type": "network"})
        config["annotations"] = {"org.criu.config": str(options)}
        return config

    def through(self) -> Result:
        """Start, save, end, restore, ask."""
        started = self._runc("run", "--detach", "--bundle", str(self._place), self._name)
        if started.returncode or not self._there("ready.json", LIMIT):
            return Result(Outcome.NOT_STARTED, _last(started.stderr))
        if json.loads((self._exchange / "ready.json").read_text()):
            return Result(Outcome.NOT_STARTED, (self._exchange / "ready.json").read_text())
        where = ["--image-path", str(self._images), "--work-path", str(self._place)]
        flags = ["--tcp-established", "--file-locks", "--ext-unix-sk"]
        saved = self._runc("checkpoint", *where, *flags, self._name)
        if saved.returncode:
            return Result(Outcome.REFUSED, self._errors("dump.log") or _last(saved.stderr))
        restored = self._runc("restore", "--detach", "--bundle", str(self._place), *where, *flags, self._name)
        if restored.returncode:
            return Result(Outcome.LOST, self._errors("restore.log") or _last(restored.stderr))
        (self._exchange / "verify").touch()
        if not self._there("results.json", RESULT_LIMIT):
            return Result(Outcome.FAIL, "it did not answer")
        outcome, words = json.loads((self._exchange / "results.json").read_text())[self._test.name]
        return Result(Outcome(outcome), words)

    def _there(self, name: str, limit: float) -> bool:
        with contextlib.suppress(TimeoutError):
            until((self._exchange / name).exists, limit, 0.1)
        return (self._exchange / name).exists()

    def _errors(self, log: str) -> str:
        path = self._place / log
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return " / ".join(
            line.partition("Error ")[2] for line in lines if "Error " in line and not _NOISE.search(line)
        )[:600]

    def _runc(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Without output: what a container has open must be in it. What runc says is in its log."""
        environment = {**os.environ, "PATH": f"{CRIU_PREFIX / 'libexec'}:{os.environ['PATH']}"}
        self._log.unlink(missing_ok=True)
        inside = ["nsenter", f"--net={self._network}", "runc", "--log", str(self._log), "--criu", str(CRIU)]
        silent = subprocess.DEVNULL
        try:
            status = subprocess.run(
                [*inside, *words],
                cwd=self._place,
                env=environment,
                stdin=silent,
                stdout=silent,
                stderr=silent,
                timeout=LIMIT,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = -1
        said = self._log.read_text() if self._log.exists() else ""
        return subprocess.CompletedProcess([*inside, *words], status, "", said)


def _last(text: str) -> str:
    return " ".join(text.split())[-300:]


def _must(*argv: str | Path) -> None:
    subprocess.run([str(word) for word in argv], check=True, capture_output=True, timeout=LIMIT)
