"""Jobs on NVIDIA GPUs: device memory goes into host memory before the freeze, and back after the restore.

UNVERIFIED: no GPU was at hand. Stand-in programs prove order, arguments, limits and refusals, nothing else. It is off
unless the agent's settings turn it on.

    before the pause    nvidia-smi: may this be done at all?    cuda-checkpoint: lock each process, then checkpoint it
    CRIU dumps plain processes: they hold no device any more
    after the resume, or after the start of a restored job      cuda-checkpoint: restore (old UUID = new UUID), unlock

CRIU has a plugin that calls cuda-checkpoint by itself. It is not used: it asks the processes to work while our freezer
already holds them, it cannot map UUIDs (criu #3107), and its calls end with CRIU's own time-out, which leaves large
cards out of step (criu #2547). NVIDIA's own snapshots of containers do it in this order too (criu #3022).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from perdure.domain.checkpoints import GpuDevice
from perdure.domain.errors import CheckpointFailed, CommandFailed, NotCheckpointable, RestoreFailed
from worker_agent.engine.commands import run
from worker_agent.engine.descriptors import links
from worker_agent.engine.looking import Look, mappings
from worker_agent.proc import command

log = structlog.get_logger()

OLDEST_DRIVER = 570
"""Earlier drivers have no lock with a time-out, and none of NVML's state (cuda-checkpoint's README, "570 Features")."""
_DEVICE = re.compile(r"/dev/(nvidia\d+|nvidia-uvm|nvidiactl|nvidia-caps/.*)")
_QUERY = ("uuid", "name", "driver_version", "memory.used", "memory.total", "mig.mode.current")
_MIB = 1024 * 1024
_LOOK = 30.0
_LOCK = 30.0
"""Seconds that submitted work gets to end; a lock without a limit may never return (CUDA driver API)."""
_NEVER = 900.0
"""Seconds after which cuda-checkpoint is killed all the same. Killed in its work it leaves the process out of step with
the driver for good (criu #2547), so past its limit it is waited for."""


@dataclass(frozen=True)
class GpuTools:
    """The outside programs, and whether they may be used."""

    enabled: bool = False
    nvidia_smi: str = "nvidia-smi"
    cuda_checkpoint: str = "cuda-checkpoint"


@dataclass(frozen=True)
class Card:
    """One GPU of this node, as nvidia-smi tells it."""

    device: GpuDevice
    free_bytes: int
    mig: bool


def users(pids: Iterable[int]) -> list[int]:
    """Those of the processes that hold a GPU, by descriptor or mapping."""
    return [pid for pid in pids if _holds_gpu(pid)]


def seen_users(look: Look) -> list[int]:
    """The same, of a look that was taken: at least the first process that holds each descriptor."""
    holders = {one.pid for one in look.descriptors if _DEVICE.fullmatch(one.link)}
    holders |= {one.pid for one in look.mappings if _DEVICE.match(one.path)}
    return sorted(holders)


def _holds_gpu(pid: int) -> bool:
    try:
        if any(_DEVICE.fullmatch(link) for link in links(pid).values()):
            return True
    except OSError:  # it ended while we looked
        return False
    return any(_DEVICE.match(one.path) for one in mappings(pid))


def refuse_unless_enabled(tools: GpuTools, pids: Sequence[int]) -> None:
    """NotCheckpointable, naming the process, for a job on a GPU while this is off."""
    if pids and not tools.enabled:
        said = (
            f"process {pids[0]} ({command(pids[0])}) uses a GPU, and GPU support is off (unverified; PERDURE_GPU=true)"
        )
        raise NotCheckpointable(f"the job cannot be frozen now: {said}", "look")


async def cards(tools: GpuTools) -> list[Card]:
    """This node's GPUs. CommandFailed without a driver, or if nvidia-smi says what we do not understand."""
    argv = [tools.nvidia_smi, f"--query-gpu={','.join(_QUERY)}", "--format=csv,noheader,nounits"]
    text = await run(argv, limit_seconds=_LOOK)
    try:
        return [_card(line) for line in text.splitlines() if line.strip()]
    except ValueError as problem:
        raise CommandFailed(argv, 0, f"its answer is not understood: {problem}") from problem


def _card(line: str) -> Card:
    uuid, name, driver, used, total, mig = (field.strip() for field in line.split(","))
    device = GpuDevice(uuid=uuid, name=name, driver=driver, used_bytes=int(used) * _MIB)
    return Card(device, (int(total) - int(used)) * _MIB, mig == "Enabled")


async def suspend(tools: GpuTools, pids: Sequence[int]) -> list[GpuDevice]:
    """Bring the device memory of these processes into theirs, and let go of the GPUs they use.

    Returns those GPUs. NotCheckpointable with the reason if it cannot be done on this node; CheckpointFailed if it was
    tried and failed: the processes then have their GPUs again.
    """
    if not pids:
        return []
    try:
        found = await cards(tools)
        used = await _used(tools, pids, found)
    except CommandFailed as problem:
        raise NotCheckpointable(f"the node's GPUs cannot be asked: {problem}", "gpu") from problem
    _check(used)
    try:
        for pid in pids:
            await _act(tools, "lock", pid, "--timeout", str(int(_LOCK * 1000)), limit_seconds=_LOCK + _LOOK)
        for pid in pids:
            await _act(tools, "checkpoint", pid, limit_seconds=_limit([card.device for card in used]))
    except CommandFailed as problem:
        await resume(tools, pids)
        raise CheckpointFailed(f"the GPU's memory was not saved: {problem}", "gpu") from problem
    return [card.device for card in used]


async def _used(tools: GpuTools, pids: Sequence[int], found: list[Card]) -> list[Card]:
    argv = [tools.nvidia_smi, "--query-compute-apps=pid,gpu_uuid", "--format=csv,noheader,nounits"]
    pairs = [line.split(",") for line in (await run(argv, limit_seconds=_LOOK)).splitlines() if "," in line]
    theirs = {uuid.strip() for pid, uuid in pairs if pid.strip().isdigit() and int(pid) in pids}
    return [card for card in found if card.device.uuid in theirs]


def _check(used: list[Card]) -> None:
    """NotCheckpointable, with the reason, for what is known not to work."""
    for card in used:
        name, driver = card.device.name, card.device.driver
        if _major(driver) < OLDEST_DRIVER:
            raise NotCheckpointable(f"the driver of {name} is {driver}; {OLDEST_DRIVER} or later is needed", "gpu")
        if card.mig:
            raise NotCheckpointable(f"{name} is split (MIG), which cuda-checkpoint does not support", "gpu")
    if not used:
        raise NotCheckpointable("the job holds a GPU, but nvidia-smi knows no compute process of it", "gpu")
    needed, available = sum(card.device.used_bytes for card in used), _available_bytes()
    if needed > available:
        raise NotCheckpointable(
            f"{needed // _MIB} MiB of GPU memory are in use and this node has {available // _MIB} MiB of memory free; "
            "give the job a node with more memory",
            "gpu",
        )


def _available_bytes() -> int:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _limit(devices: Iterable[GpuDevice]) -> float:
    """Seconds for moving the devices' memory: 0.1 GB/s was the slowest rate reported for one card (nvcf #225)."""
    return 60.0 + sum(device.used_bytes for device in devices) / 100e6


async def _act(tools: GpuTools, action: str, pid: int, *more: str, limit_seconds: float) -> None:
    argv = [tools.cuda_checkpoint, "--action", action, "--pid", str(pid), *more]
    await run(argv, limit_seconds=limit_seconds, give_up=lambda: None, grace_seconds=_NEVER)


async def resume(tools: GpuTools, pids: Iterable[int], devices: Sequence[GpuDevice] = (), mapping: str = "") -> None:
    """Give these processes their GPUs back, whatever state they are in. `mapping`: `old UUID=new UUID,…` for a restore
    on other cards. Every process is tried; CheckpointFailed names those that stay without their GPU."""
    lost = []
    for pid in pids:
        try:
            state = await run([tools.cuda_checkpoint, "--get-state", "--pid", str(pid)], limit_seconds=_LOOK)
            if "checkpointed" in state:
                more = ["--device-map", mapping] if mapping else []
                await _act(tools, "restore", pid, *more, limit_seconds=_limit(devices))
            if "running" not in state:
                await _act(tools, "unlock", pid, limit_seconds=_LOOK)
        except CommandFailed as problem:
            lost.append(f"process {pid} ({command(pid)}): {problem}")
    if lost:
        raise CheckpointFailed(f"the job did not get its GPU back: {'; '.join(lost)}", "gpu")


async def map_devices(tools: GpuTools, saved: Sequence[GpuDevice]) -> str:
    """`old UUID=new UUID,…` of a free card of the same model for each saved one; empty if none was saved.

    RestoreFailed, always this node's fault, names what is missing.
    """
    if not saved:
        return ""
    if not tools.enabled:
        raise _unfit("the job needs a GPU, and GPU support is off on this node (PERDURE_GPU=true)")
    try:
        free = await cards(tools)
    except CommandFailed as problem:
        raise _unfit(f"the node's GPUs cannot be asked: {problem}") from problem
    pairs = []
    for device in saved:
        fitting = [card for card in free if card.device.name == device.name and card.free_bytes >= device.used_bytes]
        if not fitting:
            here = ", ".join(f"{card.device.name} ({card.free_bytes // _MIB} MiB free)" for card in free) or "none"
            raise _unfit(f"the job needs a {device.name} with {device.used_bytes // _MIB} MiB free; here: {here}")
        card = fitting[0]
        _check_restore(device, card)
        free.remove(card)
        pairs.append(f"{device.uuid}={card.device.uuid}")
    return ",".join(pairs)


def _check_restore(saved: GpuDevice, card: Card) -> None:
    if card.mig:
        raise _unfit(f"{card.device.name} is split (MIG) on this node")
    if _major(card.device.driver) < max(OLDEST_DRIVER, _major(saved.driver)):
        raise _unfit(f"this node's driver is {card.device.driver}; the job was saved under {saved.driver}")


def _major(driver: str) -> int:
    found = re.match(r"\d+", driver)
    return int(found[0]) if found else 0


def _unfit(reason: str) -> RestoreFailed:
    return RestoreFailed(reason, "gpu", node_fault=True)
