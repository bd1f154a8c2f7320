"""`perdure preflight`: a verdict for a command, tried in a throw-away container, or for a container that runs here.

Exit code 0: protectable · 1: not, or not without changes · 2: usage.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from perdure.domain.configuration import JobVolumeConfiguration
from perdure.domain.errors import (
    CheckpointFailed,
    ConfigurationInvalid,
    JobEnded,
    NotCheckpointable,
    RestoreFailed,
    UnknownJob,
)
from perdure.settings import AgentSettings
from worker_agent import proc
from worker_agent.container.mounts import BundleMount, find_rules
from worker_agent.engine import Freezer, Tools
from worker_agent.preflight import examine
from worker_agent.preflight.findings import Finding, Level, Report, Verdict
from worker_agent.preflight.throwaway import ThrowAway, throw_away

_LOOK_EVERY = 0.25
_BEFORE_A_TRY = 5.0
"""Seconds after which a command is tried when nothing else was asked: by then it has opened what it works with."""
_RUNC_ROOTS = ("/run/runc", "/run/docker/runtime-runc/moby", "/var/run/docker/runtime-runc/moby")
_LIMIT = 30.0
_NOT_PROTECTABLE = 1


def command(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="-- CMD...", help="What to run and look at, as a job would.")
    ] = None,
    container: Annotated[str | None, typer.Option(metavar="ID", help="A container that runs on this machine.")] = None,
    pid: Annotated[int | None, typer.Option(metavar="PID", help="A container by one of its processes.", min=1)] = None,
    runc_root: Annotated[str | None, typer.Option("--root", help="Where runc keeps that container's state.")] = None,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", min=0.1, help="Look for so long; until the command's end if not given.")
    ] = None,
    really: Annotated[
        bool, typer.Option("--try", help="Save and restore the command for real at the end; it has no network then.")
    ] = False,
    io_uring: Annotated[bool, typer.Option("--io-uring", help="Do not refuse io_uring to the command.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say whether a job can be protected, and if not, what stands in the way and what helps. Needs root."""
    if sum(one is not None for one in (words or None, container, pid)) != 1:
        raise ConfigurationInvalid("say one of: -- CMD..., --container ID, --pid PID")
    if (really or io_uring or seconds) and not words:
        raise ConfigurationInvalid("--try, --io-uring and --seconds are for a command: -- CMD...")
    if os.geteuid() != 0:
        raise ConfigurationInvalid("preflight reads what other processes hold open: run it as root")
    report = asyncio.run(_run(words, seconds, really, io_uring)) if words else _look_at(container, pid, runc_root)
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        _show(report)
    if report.verdict is not Verdict.PROTECTABLE:
        raise typer.Exit(_NOT_PROTECTABLE)


# ---- a command -----------------------------------------------------------------------------------------------------


async def _run(words: list[str], seconds: float | None, really: bool, io_uring: bool) -> Report:
    settings = AgentSettings()
    tools = Tools(criu=settings.criu, path_first=settings.criu_path_first)
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    async with throw_away(words, tools, io_uring=io_uring, own_network=really) as made:
        report = await _sample(made, _BEFORE_A_TRY if seconds is None and really else seconds)
        if really:
            report = report.joined(Report.of(await _try(made)))
    return report


async def _sample(made: ThrowAway, seconds: float | None) -> Report:
    """Everything that any look found."""
    report, looked = Report(), False
    end = None if seconds is None else time.monotonic() + seconds
    while (pids := made.pids()) and (end is None or time.monotonic() < end):
        with contextlib.suppress(OSError):  # it ended while we looked
            report = report.joined(
                await asyncio.to_thread(examine, pids, made.running.init_pid, trees=made.running.trees)
            )
            looked = True
        await asyncio.sleep(_LOOK_EVERY)
    if not looked:
        raise ConfigurationInvalid("the command ended before it could be looked at: give it something to do")
    return report


async def _try(made: ThrowAway) -> list[Finding]:
    fix = "Give a command that runs longer, or fewer --seconds."
    too_short = Finding(Level.NOTE, "not tried", "the command ended before it could be saved", fix)
    if not made.pids():
        return [too_short]
    try:
        manifest = await made.save()
        await made.restore(manifest)
    except JobEnded:
        return [too_short]
    except NotCheckpointable as problem:
        return [Finding(Level.CHANGE, "not saved", f"it could not be saved: {problem}")]
    except CheckpointFailed as problem:
        return [Finding(Level.CHANGE, "not saved", f"it was not saved: {problem}", "Try again; this may pass.")]
    except RestoreFailed as problem:
        return [Finding(Level.BLOCK, "not restored", f"it was saved, but could not be brought back: {problem}")]
    frozen = manifest.phases.get("frozen", 0.0)
    size = manifest.image_bytes / (1 << 20)
    what = f"the command was saved ({size:.0f} MiB, frozen for {frozen:.2f} s), killed and restored, and went on"
    return [Finding(Level.NOTE, "tried", what)]


# ---- a running container -------------------------------------------------------------------------------------------


def _look_at(container: str | None, pid: int | None, runc_root: str | None) -> Report:
    bundle: Path | None = None
    if container is not None:
        pid, bundle = _find(container, [runc_root] if runc_root else list(_RUNC_ROOTS))
    assert pid is not None
    try:
        pids, init = _container_of(pid)
    except OSError as problem:
        raise UnknownJob(f"process {pid} cannot be looked at: {problem.strerror}") from problem
    mounts = _mounts(bundle) if bundle is not None else []
    report = examine(pids, init, mounts=[mount.destination for mount in mounts])
    return report.joined(Report.of(_outside_mounts(mounts)))


def _find(name: str, roots: list[str]) -> tuple[int, Path]:
    """Process and bundle of a container, by its id or the beginning of it. UnknownJob."""
    for root in roots:
        known = [folder.name for folder in Path(root).glob("*") if folder.name.startswith(name)]
        for full in known if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name) else []:
            argv = ["runc", "--root", root, "state", full]
            said = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT, check=False)
            if said.returncode == 0 and (state := json.loads(said.stdout))["pid"]:
                return int(state["pid"]), Path(state["bundle"])
    raise UnknownJob(
        f"no running container {name[:80]!r} below {', '.join(roots)}; --root says where runc keeps its own"
    )


def _container_of(pid: int) -> tuple[list[int], int]:
    """All processes of the container that this one is in, and its first."""
    namespace = os.readlink(f"/proc/{pid}/ns/pid")
    if namespace == os.readlink("/proc/self/ns/pid"):
        raise ConfigurationInvalid(f"process {pid} is in no container: its process numbers are the machine's own")
    pids, init = set(Freezer.of_process(pid).pids()), 0
    for one in proc.everyone():
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{one}/ns/pid") == namespace:
                pids.add(one)
                if proc.status(one).numbers[-1:] == [1]:
                    init = one
    return sorted(pids), init or pid


def _mounts(bundle: Path) -> list[BundleMount]:
    try:
        config = json.loads((bundle / "config.json").read_text("utf-8", "replace"))
        return [BundleMount.model_validate(mount) for mount in config.get("mounts") or []]
    except (OSError, ValueError):
        return []


def _outside_mounts(mounts: list[BundleMount]) -> list[Finding]:
    found = []
    settings = JobVolumeConfiguration()
    for mount in mounts:
        try:
            find_rules([mount], [], settings)
        except NotCheckpointable as problem:
            what = f"{problem}".partition(";")[0]
            fix = "Declare it shared, mount it read-only, or configure its source as scratch."
            found.append(Finding(Level.CHANGE, f"mount {mount.destination}", what, fix, held=mount.source))
    return found


# ---- for people ----------------------------------------------------------------------------------------------------


def _show(report: Report) -> None:
    out = Console(highlight=False, stderr=False)
    colour = {Verdict.PROTECTABLE: "green", Verdict.WITH_CHANGES: "yellow", Verdict.NOT: "red"}[report.verdict]
    if report.findings:
        table = Table("", "what", "what helps", box=None, pad_edge=False)
        for finding in report.findings:
            table.add_row(str(finding.level), finding.sentence, finding.fix)
        out.print(table, markup=False)
    out.print(f"[{colour}]{report.verdict}[/]")
