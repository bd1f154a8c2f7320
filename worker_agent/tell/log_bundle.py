"""A node's logs as one zip archive: the agent's, the runtime's, CRIU's, the end of jobs' output, and facts of the node.

Never in it: memory images, and the environment of a job (checkpoints are described without what they say of it).
Where a log lies: CRIU's newest ones and the runtime's in the container's folder below the run folder, which goes with
the container; those of failures in `failures/` on the job root and in the agent's state folder (engine/criu_log.py);
the job's output in `log/` on the job root.
"""

from __future__ import annotations

import io
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from perdure.contracts.logs import LARGEST_BUNDLE, LARGEST_KEPT
from perdure.domain.errors import ImageInvalid
from perdure.log_files import Archive, last_lines, read_tail
from worker_agent import engine
from worker_agent.container.protected_jobs import ProtectedJob, ProtectedJobs
from worker_agent.engine import criu_log
from worker_agent.engine.commands import run
from worker_agent.node.this_node import ThisNode

OUTPUT_LINES = 100
_OUTPUT_BYTES = 64 << 10
_ROTATED = 3
"""Rotated files of the agent's own log that are looked at."""
_RECORD_FIELDS = {
    "container_id",
    "job_id",
    "attempt",
    "own_network",
    "network_remark",
    "older_image",
    "restoring",
    "rungs",
    "phases",
    "pid",
    "started_at",
    "newest",
    "max_rootfs_bytes",
    "preflight",
    "final",
    "ending",
    "handed_over",
    "lapsed",
    "mounts",
}
"""Of what the agent notes of a container: nothing that its environment told."""
_MANIFEST_FIELDS = {"inodes", "surroundings", "images"}
"""Of a manifest these are left out: too long, or of the job's environment."""


@dataclass(frozen=True)
class Limits:
    """Bytes of the whole archive and of the end of each file."""

    archive: int
    file: int


ASKED = Limits(LARGEST_BUNDLE, 512 << 10)
KEPT = Limits(LARGEST_KEPT, 128 << 10)


class LogBundles:
    """Makes bundles. Everything here blocks: call it in a thread."""

    def __init__(self, node: ThisNode, jobs: ProtectedJobs) -> None:
        self._node = node
        self._jobs = jobs
        self._versions: dict[str, str] = {}
        """What the outside programs say of themselves."""

    async def learn_versions(self) -> None:
        """Ask the outside programs once what they are. One that does not say is not named."""
        for name, program in (("criu", str(self._node.tools.criu)), ("runc", self._node.tools.runc)):
            try:
                self._versions[name] = (await run([program, "--version"], limit_seconds=10.0)).strip()[:300]
            except Exception as problem:  # whatever is wrong with it belongs into the bundle
                self._versions[name] = f"does not say: {problem}"[:300]

    def of_node(self, limits: Limits = ASKED) -> bytes:
        """Everything of this node."""
        jobs = list(self._jobs)
        with io.BytesIO() as file:
            archive = Archive(file, limits.archive)
            archive.add("facts.json", _json(self._facts(jobs)))
            for job in jobs:
                self._add_container(archive, job, limits, f"containers/{job.record.container_id[:12]}")
            self._add_failures(archive, limits, self._node.settings.state_dir / criu_log.KEPT, None)
            self._add_agent_log(archive, limits, ())
            archive.finish()
            return file.getvalue()

    def of_job(self, job_id: str, containers: Iterable[str], limits: Limits = ASKED) -> bytes:
        """What is here of one job. `containers`: ids of containers that it had on this node, gone ones too."""
        here = [job for job in self._jobs if job.record.job_id == job_id]
        known = {name[:12] for name in containers} | {job.record.container_id[:12] for job in here}
        with io.BytesIO() as file:
            archive = Archive(file, limits.archive)
            archive.add("facts.json", _json(self._facts(here)))
            for job in here:
                self._add_container(archive, job, limits, f"containers/{job.record.container_id[:12]}")
            if not here:
                archive.lacks("containers", "no container of the job is on this node now")
            self._add_failures(archive, limits, self._node.settings.state_dir / criu_log.KEPT, known)
            self._add_agent_log(archive, limits, (job_id, *known))
            archive.finish()
            return file.getvalue()

    def of_container(self, job: ProtectedJob, *, with_volume: bool, limits: Limits = KEPT) -> bytes:
        """A compact bundle of one container. Without `with_volume` its job root, which is being unmounted, is not
        touched."""
        record = job.record
        with io.BytesIO() as file:
            archive = Archive(file, limits.archive)
            archive.add("facts.json", _json(self._facts([job])))
            self._add_container(archive, job, limits, "container", with_volume=with_volume)
            kept = self._node.settings.state_dir / criu_log.KEPT
            self._add_failures(archive, limits, kept, {record.container_id[:12]})
            self._add_agent_log(archive, limits, (record.job_id, record.container_id[:12]))
            archive.finish()
            return file.getvalue()

    def _facts(self, jobs: Iterable[ProtectedJob]) -> dict[str, Any]:
        node = self._node
        known = node.describe().model_dump(mode="json") if node.identified.is_set() else {}
        return {
            "node": known,
            "perdure": version("perdure"),
            "python": platform.python_version(),
            "kernel": " ".join(os.uname()[:5]),
            "programs": self._versions,
            "preflight": {job.record.job_id: job.record.preflight or "not examined yet" for job in jobs},
            "checkpoints": {job.record.job_id: job.settings.model_dump(mode="json") for job in jobs},
        }

    def _add_container(
        self, archive: Archive, job: ProtectedJob, limits: Limits, at: str, *, with_volume: bool = True
    ) -> None:
        plan = job.record.plan
        shown = job.record.model_dump(mode="json", include=_RECORD_FIELDS)
        shown |= {"epoch": job.epoch, "verdict": plan.verdict if plan else None, "step": job.step}
        archive.add(f"{at}/container.json", _json(shown))
        for operation in ("dump", "restore"):
            archive.add_file(f"{at}/{operation}.log", job.container.work_dir / f"{operation}.log", limits.file)
        archive.add_file(f"{at}/runtime.log", job.folder / "runtime.log", limits.file)
        if not with_volume:
            return
        if not (job.job_root / "log").is_dir():
            archive.lacks(f"{at}/output.log", "the job volume is not mounted on this node now")
            return
        _add_output(archive, f"{at}/output.log", job.job_root)
        self._add_failures(archive, limits, job.job_root / criu_log.KEPT, None, f"{at}/failures")
        _add_checkpoints(archive, f"{at}/checkpoints.json", job.job_root)

    @staticmethod
    def _add_failures(
        archive: Archive, limits: Limits, folder: Path, containers: set[str] | None, at: str = "failures"
    ) -> None:
        """CRIU's kept logs, newest first; only of these `containers` (the first 12 characters), if not None."""
        try:
            found = sorted(folder.glob("*.log"), reverse=True)
        except OSError as problem:
            archive.lacks(at, str(problem))
            return
        for path in found:
            if containers is None or any(f"-{name}-" in path.name for name in containers):
                archive.add_file(f"{at}/{path.name}", path, limits.file)

    def _add_agent_log(self, archive: Archive, limits: Limits, about: tuple[str, ...]) -> None:
        """The end of the agent's log; only lines that name one of `about`, if anything."""
        try:
            text = self._agent_log(limits.file if not about else 4 * limits.file)
        except OSError as problem:
            archive.lacks("agent.log", f"the agent's log is not a file that it can read ({problem}); see the journal")
            return
        if about:
            words = [word.encode() for word in about]
            text = b"".join(line for line in text.splitlines(keepends=True) if any(word in line for word in words))
            text = text[-limits.file :]
        archive.add("agent.log", text)

    def _agent_log(self, most_bytes: int) -> bytes:
        """From the file it was told, with what was rotated away; else from its standard error, if that is a file."""
        file = self._node.settings.log_file
        if file is None:
            return read_tail(os.open("/proc/self/fd/2", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), most_bytes)
        newest_first = [file, *(file.with_name(f"{file.name}.{number}") for number in range(1, _ROTATED + 1))]
        found: list[bytes] = []
        left = most_bytes
        for path in newest_first:
            if left <= 0 or (found and not path.exists()):
                break
            found.insert(0, read_tail(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), left))
            left -= len(found[0])
        return b"".join(found)


def _add_output(archive: Archive, name: str, job_root: Path) -> None:
    parts: list[bytes] = []
    for stream in ("stdout", "stderr"):
        parts.append(f"==> {stream}, its last {OUTPUT_LINES} lines <==\n".encode())
        try:
            parts.append(last_lines(job_root / "log" / stream, OUTPUT_LINES, _OUTPUT_BYTES))
        except OSError as problem:
            archive.lacks(f"{name} ({stream})", problem.strerror or str(problem))
        parts.append(b"\n")
    archive.add(name, b"".join(parts))


def _add_checkpoints(archive: Archive, name: str, job_root: Path) -> None:
    """The manifests of what can be restored, without lists of files and without what the job's environment says."""
    try:
        found = engine.committed(job_root)
    except (OSError, ImageInvalid) as problem:
        archive.lacks(name, str(problem))
        return
    shown = [
        {**manifest.model_dump(mode="json", exclude=_MANIFEST_FIELDS), "image_bytes": manifest.image_bytes}
        for manifest in found
    ]
    archive.add(name, _json(shown))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, default=str) + "\n"
