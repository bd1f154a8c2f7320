"""QEMU without KVM: boots the virtual machine once and saves its state, or goes on from the saved state with a job."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.waiting import until

MAGIC = b"perdure-vm-job\n"
BLOCK = 4096
JOB_MIB = 16
"""Size of the job's disk; it belongs to the machine's saved state."""
_MEMORY_MIB = 1280
_BOOT = 240.0
_POLL = 0.02
_CPU = "max,-erms,-fsrm,-la57,-smap,-smep,-umip,-pku"
"""All that QEMU emulates but for what makes an emulated kernel slow: string instructions that take a turn for each byte
(else copies and clears use them), page tables of five levels, and protection between kernel and programs."""


class VmFailed(Exception):
    """The virtual machine did not do what it was made for; the message holds the end of its console."""


@dataclass(frozen=True)
class Qemu:
    """The machine in one folder of the cache."""

    folder: Path
    job_mib: int = JOB_MIB
    parameters: str = ""
    """More of them for the kernel."""

    @property
    def prefix(self) -> Path:
        return self.folder / "qemu"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def root(self) -> Path:
        return self.folder / "root.img"

    def save(self, state: Path) -> None:
        """Boot, wait until it is ready for a job, and save its state."""
        with tempfile.TemporaryDirectory(prefix="perdure-vm-", dir="/var/tmp") as name:
            place = Path(name)
            _write_job(place / "job.img", b"", {}, self.job_mib)
            monitor = place / "monitor.sock"
            process = self._start(place, ["-qmp", f"unix:{monitor},server=on,wait=off"])
            try:
                with suppress(TimeoutError):
                    until(lambda: _ready(place) or process.poll() is not None, _BOOT, _POLL)
                if not _ready(place):
                    raise VmFailed(f"the virtual machine did not boot:\n{console(place)}")
                _migrate(monitor, state.with_suffix(".new"))
            finally:
                process.kill()
                process.wait()
            state.with_suffix(".new").rename(state)

    def run(self, state: Path, job: bytes, header: dict[str, Any], limit_seconds: float) -> list[dict[str, Any]]:
        """Run one job (a tar) in the machine as it was saved; what the guest said. VmFailed if it did not end."""
        return self._finish(job, header, limit_seconds, ["-incoming", f"exec:cat {state}"])

    def _finish(
        self, job: bytes, header: dict[str, Any], limit_seconds: float, more: list[str]
    ) -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory(prefix="perdure-vm-", dir="/var/tmp") as name:
            place = Path(name)
            _write_job(place / "job.img", job, {**header, "size": len(job), "now": time.time()}, self.job_mib)
            process = self._start(place, more)
            try:
                process.wait(limit_seconds)
            except subprocess.TimeoutExpired:
                said = f"the job did not end within {limit_seconds:g} s:\n{console(place)}"
                raise VmFailed(said) from None
            finally:
                process.kill()
                process.wait()
            said_all = messages(place)
            if not any(message.get("end") for message in said_all):
                raise VmFailed(f"the virtual machine ended before the job:\n{said_all}\n{console(place)}")
            return said_all

    def boot(self, job: bytes, header: dict[str, Any], limit_seconds: float) -> list[dict[str, Any]]:
        """Boot it anew and run one job; with a network card that leads to this machine's loopback (10.0.2.2), and with
        a disk that can be written. What the guest said. VmFailed if it did not end."""
        return self._finish(job, header, limit_seconds, ["-nic", "user,model=virtio-net-pci"])

    def _start(self, place: Path, more: list[str]) -> subprocess.Popen[bytes]:
        libraries = self.prefix / "usr/lib/x86_64-linux-gnu"
        argv = [str(self.prefix / "usr/bin/qemu-system-x86_64"), "-L", str(self.prefix / "usr/share/qemu")]
        argv += [
            "-L",
            str(self.prefix / "usr/share/seabios"),
            "-accel",
            "tcg,thread=multi",
            "-machine",
            "pc",
            "-cpu",
            _CPU,
        ]
        argv += ["-smp", "1", "-m", str(_MEMORY_MIB), "-nodefaults", "-display", "none", "-no-reboot"]
        argv += ["-kernel", str(self.kernel), "-initrd", str(self.initrd)]
        argv += ["-append", f"console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable {self.parameters}".strip()]
        argv += ["-drive", f"file={self.root},format=raw,if=virtio,snapshot=on,cache=unsafe"]
        argv += ["-drive", f"file={place}/job.img,format=raw,if=virtio,cache=unsafe"]
        argv += ["-serial", f"file:{place}/console", "-serial", f"file:{place}/messages", *more]
        paths = f"{libraries}:{libraries}/pulseaudio"
        environment = {**os.environ, "LD_LIBRARY_PATH": paths, "TMPDIR": str(place)}
        with open(place / "qemu.log", "wb") as log:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)


def _ready(place: Path) -> bool:
    return any(message.get("ready") for message in messages(place))


def messages(place: Path) -> list[dict[str, Any]]:
    """What the guest said on its second serial line so far, one JSON object a line."""
    found = []
    with suppress(FileNotFoundError):
        for line in (place / "messages").read_bytes().splitlines():
            with suppress(ValueError):  # the last line may not be complete yet
                found.append(json.loads(line))
    return found


def console(place: Path) -> str:
    """The ends of the guest's console and of QEMU's own output."""
    texts = []
    for name in ("qemu.log", "console"):
        with suppress(FileNotFoundError):
            texts.append((place / name).read_text(errors="replace")[-3000:])
    return "\n".join(texts)


def _write_job(path: Path, job: bytes, header: dict[str, Any], mebibytes: int) -> None:
    assert len(job) + BLOCK <= mebibytes << 20, "the job does not fit its disk"
    with open(path, "wb") as disk:
        disk.truncate(mebibytes << 20)
        if header:
            disk.write((MAGIC + json.dumps(header).encode()).ljust(BLOCK, b"\0"))
            disk.write(job)


def _migrate(monitor: Path, target: Path) -> None:
    """Save the running machine's state by QEMU's own protocol (QMP)."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_BOOT)
        connection.connect(str(monitor))
        answers = connection.makefile("rb")

        def ask(command: str, **arguments: object) -> Any:
            connection.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
            for line in answers:
                answer = json.loads(line)
                if "error" in answer:
                    raise VmFailed(f"QEMU refused {command}: {answer['error']['desc']}")
                if "return" in answer:
                    return answer["return"]
            raise VmFailed(f"QEMU ended at {command}")

        ask("qmp_capabilities")
        ask("migrate-set-parameters", **{"max-bandwidth": 1 << 33})
        ask("migrate", uri=f"exec:cat > {target}")
        end = time.monotonic() + _BOOT
        while (status := ask("query-migrate")["status"]) != "completed":
            if status == "failed" or time.monotonic() > end:
                raise VmFailed(f"the machine's state was not saved: {status}")
            time.sleep(_POLL)
