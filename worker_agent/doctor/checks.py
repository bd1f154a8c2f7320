"""The checks. Each looks at one thing, changes nothing, and returns what is wrong with it; none raises."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from perdure.domain.errors import CloudUnavailable, CommandFailed
from perdure.domain.values import parse_duration
from perdure.settings import AgentSettings, connect_temporal
from worker_agent.engine.commands import run
from worker_agent.node.metadata import Metadata

_LIMIT = 20.0
_RUNTIME_NAMES = ("perdure", "nvidia")
_OLDEST_KERNEL = (5, 10)
_ECS_TIME_OUTS = {"CREATE": ("4m", 840.0), "START": ("3m", 900.0)}
"""ECS's own default (ecs-agent README), and the seconds that are wanted: a restore happens meanwhile."""
_LOW_DISK, _NO_DISK = 5 << 30, 512 << 20
"""Bytes below which a job volume's absence (checkpoints then lie here) is a risk, and below which nothing works."""
INSTALL = "sh perdure-install --from PLACE --temporal HOST:PORT"


class Severity(StrEnum):
    """How much it matters."""

    ERROR = "error"
    """Jobs are not protected."""
    WARNING = "warning"
    """They are, but some reclaims will not be survived, or soon none."""


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong. `check` is short and stable, for programs; `what` a sentence; `mend` a command or the
    place of a setting."""

    severity: Severity
    check: str
    what: str
    mend: str


Check = Callable[[AgentSettings], Awaitable[list[Trouble]]]


def _error(check: str, what: str, mend: str) -> list[Trouble]:
    return [Trouble(Severity.ERROR, check, what, mend)]


def _warning(check: str, what: str, mend: str) -> list[Trouble]:
    return [Trouble(Severity.WARNING, check, what, mend)]


async def kernel(_: AgentSettings) -> list[Trouble]:
    """New enough, with the file systems of job volumes and root layers."""
    release = os.uname().release
    numbers = tuple(int(word) for word in release.split("-")[0].split(".")[:2])
    if numbers < _OLDEST_KERNEL:
        return _error("kernel", f"The kernel is {release}; 5.10 or newer is needed.", "use a newer image")
    known = Path("/proc/filesystems").read_text().split()
    missing = [name for name in ("overlay", "xfs") if name not in known and shutil.which("modprobe") is None]
    for name in [name for name in ("overlay", "xfs") if name not in known and name not in missing]:
        try:
            await run(["modprobe", "--dry-run", "--quiet", name], limit_seconds=_LIMIT)
        except CommandFailed:
            missing.append(name)
    if missing:
        what = f"This kernel has no {' and no '.join(missing)} file system."
        return _error("kernel", what, "use an image with its distribution's usual kernel")
    return []


async def criu(settings: AgentSettings) -> list[Trouble]:
    """There, and this kernel lets it work."""
    try:
        await run([str(settings.criu), "check"], limit_seconds=_LIMIT)
    except CommandFailed as problem:
        return _error("criu", f"CRIU cannot freeze processes here: {problem}", f"{settings.criu} check -v2")
    return []


async def docker(_: AgentSettings) -> list[Trouble]:
    """It calls our runtime, and that is there."""
    try:
        about = json.loads(await run(["docker", "info", "--format", "{{json .}}"], limit_seconds=_LIMIT))
    except (CommandFailed, ValueError) as problem:
        return _error("docker", f"Docker does not answer: {problem}", "systemctl status docker")
    default = str(about.get("DefaultRuntime", ""))
    path = Path(str(about.get("Runtimes", {}).get(default, {}).get("path", "")))
    if default not in _RUNTIME_NAMES or "perdure-runtime" not in path.name:
        return _error("docker", f"Docker's default runtime is {default!r}, so jobs run unprotected.", INSTALL)
    if not os.access(path, os.X_OK):
        return _error("docker", f"Docker's runtime {path} is not there: containers cannot start.", INSTALL)
    if Path(os.environ.get("PERDURE_CONFIG_DIR", "/etc/perdure"), "off").exists():
        return _warning("docker", "Protection is switched off for new containers.", "rm /etc/perdure/off")
    return []


async def agent(settings: AgentSettings) -> list[Trouble]:
    """It listens, and is of the version that is installed."""
    try:
        pid = await asyncio.to_thread(_listener, settings.run_dir / "agent.sock")
    except OSError as problem:
        what = f"The agent does not listen ({problem}), so jobs run unprotected."
        return _error("agent", what, "systemctl restart perdure-agent; journalctl -u perdure-agent")
    current = Path("/opt/perdure/current")
    if not current.exists():
        return []
    running = Path(os.path.realpath(f"/proc/{pid}/exe"))
    if not running.is_relative_to(current.resolve()):
        what = f"The agent that runs is {running}, and {current.resolve().name} is installed."
        return _warning("agent", what, "systemctl restart perdure-agent")
    return []


def _listener(path: Path) -> int:
    """The process that accepts connections there (unix(7), SO_PEERCRED)."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_LIMIT)
        connection.connect(str(path))
        said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("3i", said)[0])


async def ecs(_: AgentSettings) -> list[Trouble]:
    """Its agent gives a container the time that a restore takes, and stops nothing on a notice."""
    file = Path("/etc/ecs/ecs.config")
    if not file.parent.exists():
        return []
    there = _assignments(file)
    found: list[Trouble] = []
    for step, (default, wanted) in _ECS_TIME_OUTS.items():
        name = f"ECS_CONTAINER_{step}_TIMEOUT"
        given = _seconds(there.get(name, default))
        if given < wanted:
            what = f"ECS gives a container {given:g} s ({name}); a restore may take longer, and the attempt would fail."
            found += _warning("ecs", what, f"{file}: {name}=16m; systemctl restart ecs")
    if there.get("ECS_ENABLE_SPOT_INSTANCE_DRAINING", "").lower() == "true":
        what = "ECS drains the instance on a notice, while jobs are being saved."
        found += _warning("ecs", what, f"{file}: ECS_ENABLE_SPOT_INSTANCE_DRAINING=false; systemctl restart ecs")
    return found


def _assignments(file: Path) -> dict[str, str]:
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    parts = [line.partition("=") for line in lines if not line.lstrip().startswith("#")]
    return {name.strip(): value.strip().strip("\"'") for name, equals, value in parts if equals}


def _seconds(duration: str) -> float:
    try:
        return parse_duration(duration)
    except ValueError:
        return 0.0


async def disk(settings: AgentSettings) -> list[Trouble]:
    """Room for the agent's own files, and for checkpoints of jobs without a volume."""
    place = settings.state_dir if settings.state_dir.exists() else Path("/")
    free = shutil.disk_usage(place).free
    mend = "a larger root volume in the launch template (BlockDeviceMappings)"
    if free < _NO_DISK:
        return _error("disk", f"Only {free >> 20} MiB are free below {place}.", mend)
    if free < _LOW_DISK:
        what = f"{free >> 20} MiB are free below {place}; checkpoints of jobs without a volume lie there."
        return _warning("disk", what, mend)
    return []


async def clock(_: AgentSettings) -> list[Trouble]:
    """It is kept right: deadlines of notices are times."""
    try:
        said = await run(["timedatectl", "show", "--property=NTPSynchronized", "--value"], limit_seconds=_LIMIT)
    except CommandFailed:
        return []  # no systemd here: nobody to ask
    if said.strip() == "no":
        return _warning(
            "clock", "The clock is not synchronised; deadlines are times.", "systemctl enable --now chronyd"
        )
    return []


async def metadata(settings: AgentSettings) -> list[Trouble]:
    """The instance metadata service answers: notices come by it."""
    service = Metadata(settings.metadata_url)
    try:
        await service.identity()
    except CloudUnavailable as problem:
        mend = "aws ec2 modify-instance-metadata-options --instance-id ID --http-endpoint enabled"
        return _error("metadata", f"No notice can be heard: {problem}", mend)
    finally:
        await service.close()
    return []


async def temporal(_: AgentSettings) -> list[Trouble]:
    """Reachable from here."""
    mend = "/etc/perdure/agent.env: TEMPORAL_ADDRESS; the server's security group must let this instance in"
    try:
        async with asyncio.timeout(_LIMIT):
            await connect_temporal(lazy=False)
    except (RuntimeError, TimeoutError, OSError, ValueError) as problem:
        address = os.environ.get("TEMPORAL_ADDRESS", "127.0.0.1:7233 (nothing else is set)")
        what = f"Temporal at {address} does not answer ({_in_short(problem)})."
        return _error("temporal", what, mend)
    return []


def _in_short(problem: Exception) -> str:
    """Temporal's client tells errors of the network as Rust sees them, nested; the innermost has the kernel's words."""
    said = re.findall(r'message: "([^"]+)"', str(problem))
    return said[-1] if said else str(problem)[:200] or type(problem).__name__


CHECKS: tuple[Check, ...] = (kernel, criu, docker, agent, ecs, disk, clock, metadata, temporal)


async def examine(settings: AgentSettings) -> dict[str, Any]:
    """What each check found, by its name, in order; an empty list is good news."""
    found = await asyncio.gather(*(check(settings) for check in CHECKS))
    return {check.__name__: troubles for check, troubles in zip(CHECKS, found, strict=True)}
