"""Preflight: can this container be protected, and if not, which process holds what, and what helps.

What the engine refuses before a dump is in a table that both ask (engine/refusals.py). The rest CRIU refuses itself.
It only reads: /proc, the container's config.json and its mount table. Nothing is frozen or changed, so it may look at
any container at any time. Start with `examine`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from perdure.domain.retries import ENDED_BY_US, HOST_GONE, RetryStrategy, would_retry
from perdure.image.mounts import read_mounts
from worker_agent.engine.looking import Look, look, one_of_each
from worker_agent.engine.refusals import refused
from worker_agent.preflight.descriptors import GPU, Surroundings, check_descriptors, check_mappings, terminals
from worker_agent.preflight.findings import Finding, Level, Process, Report, Verdict
from worker_agent.preflight.processes import check_processes, shares_ipc
from worker_agent.preflight.sockets import check_sockets

__all__ = ["Finding", "Level", "Process", "Report", "Verdict", "check_retries", "examine"]


def examine(
    pids: Iterable[int],
    init_pid: int,
    *,
    retry: RetryStrategy | None = None,
    mounts: Iterable[str] = (),
    shared: Iterable[str] = (),
    trees: Iterable[Path] = (),
    gpu: bool = False,
) -> Report:
    """One look at a running container: `pids` are all its processes, `init_pid` its first one, as this node numbers
    them. `retry` is the job's retry strategy, where it is known; `mounts` are the places at which the container engine
    mounted something, `shared` those of them that are not the job's alone; `trees`: its own files on this node, if
    their paths are to be looked at; `gpu`: this node saves what NVIDIA's GPUs hold. Processes that end meanwhile are
    left out. Blocks: some milliseconds, more for thousands of descriptors or folders."""
    known = set(mounts)
    seen = look(pids, init_pid, shared=shared, trees=trees, places=known)
    findings = [*(check_retries(retry) if retry else ()), *_check_mounts(init_pid, known)]
    held = [_with_gpu_support(finding) if gpu else finding for finding in _findings(seen)]
    return Report.of([*findings, *held])


def _with_gpu_support(finding: Finding) -> Finding:
    if finding.kind != GPU or finding.level is Level.BLOCK:
        return finding
    return replace(finding, level=Level.NOTE, what="uses a GPU, which this node saves (unverified)", fix="")


def _findings(seen: Look) -> Iterator[Finding]:
    processes = {pid: Process(pid, one.inner, one.command) for pid, one in seen.processes.items()}
    for one in refused(seen):
        yield Finding(Level.CHANGE, one.row.kind, one.row.what, one.row.fix, processes[one.process.pid], one.held)
    yield from check_processes(list(processes.values()), seen.init_pid)
    around = Surroundings(_mount_numbers(seen), terminals(seen), shares_ipc(seen.init_pid))
    for process in processes.values():
        yield from check_descriptors(process, seen.of(process.pid), around)
        yield from check_mappings(process, around)
    yield from check_sockets(processes, seen)


def check_retries(strategy: RetryStrategy) -> Iterator[Finding]:
    """Does the job's own retry strategy run it again after a reclaim? Without that nothing restores it by itself."""
    fix = "Set `attempts` to 2 or more, with a rule that retries `Host EC2*`, in the job's retry strategy."
    if strategy.attempts < 2:
        yield Finding(Level.CHANGE, "retry rule", "the job has one attempt only: a reclaim ends it for good", fix)
        return
    reclaimed, rule = would_retry(strategy, exit_code=None, reason=None, status_reason=HOST_GONE)
    ended, _ = would_retry(
        strategy, exit_code=ENDED_BY_US, reason=None, status_reason="Essential container in task exited"
    )
    if not reclaimed and not ended:
        yield Finding(Level.CHANGE, "retry rule", f"the job's retry strategy does not retry reclaims ({rule})", fix)


def _mount_numbers(seen: Look) -> frozenset[int]:
    """Of all mount namespaces of the container: those inside it are saved, too."""
    found: set[int] = set()
    for pid in one_of_each((seen.init_pid, *seen.processes), "mnt"):
        found |= {mount.number for mount in read_mounts(pid)}
    return frozenset(found)


def _check_mounts(pid: int, known: set[str]) -> Iterator[Finding]:
    """File systems that a program of the job serves itself."""
    for mount in read_mounts(pid):
        if (mount.kind == "fuse" or mount.kind.startswith("fuse.")) and mount.point not in known:
            what = f"the mount {mount.point[:200]} is a FUSE file system, whose server cannot be saved with it"
            fix = "Mount it on the instance and bind it into the container, declared shared."
            yield Finding(Level.CHANGE, "fuse", what, fix, held=mount.kind)
