"""What CRIU's log says about a failure: its errors in one line, the plain sentence for people, and the whole log kept
where it can be found later."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from perdure.domain.errors import CheckpointFailed, NotCheckpointable, RestoreFailed
from worker_agent.engine.container import Container
from worker_agent.engine.explanations import explain
from worker_agent.engine.tasks import command

log = structlog.get_logger()

KEPT = "failures"
"""The folder of kept logs on the job root."""
_MOST_KEPT = 10
"""Logs that a folder keeps; the oldest go."""
_TAIL = 256 * 1024
_ERROR = re.compile(r"^(?:pie: \d+: )?(?:\(\d+\.\d+\)\s*)?(?:\d+:\s*)?Error \(([^)]*)\): (.*)$", re.MULTILINE)
_EMPTY_WORDS = ("Dumping FAILED", "Restoring FAILED", "Pre-dumping FAILED", "rlimit: Can't setup RLIMIT_NOFILE")
"""Said at every failure, or (for want of CAP_SYS_RESOURCE) at every run."""
_ALSO_NODE_FAULTS = ("CPU ", "cpu")
"""Words of a restore's failure that no line of the table explains, yet point at the node."""


def errors(log_file: Path, most: int = 3) -> str:
    """The last errors of a CRIU log, oldest of them first; empty if there is no log or no error in it."""
    found = [f"{place}: {words}" for place, words in _ERROR.findall(_tail(log_file)) if _tells(words)]
    return "; ".join(found[:1] + found[1:][-(most - 1) :])


def _tells(words: str) -> bool:
    return not words.startswith(_EMPTY_WORDS)


def _tail(log_file: Path) -> str:
    try:
        with open(log_file, "rb") as file:
            file.seek(max(0, log_file.stat().st_size - _TAIL))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def node_fault(message: str) -> bool:
    """Does the message point at this node (a port, an address, memory, the CPU) rather than at the checkpoint?"""
    known = explain(message)
    return known.node_fault if known else any(words in message for words in _ALSO_NODE_FAULTS)


def dump_failure(container: Container, stderr: str, *, step: str = "dump") -> CheckpointFailed:
    """What went wrong when a dump ended badly (`stderr`: runc's last words). NotCheckpointable if the job holds what
    can never be dumped. The log is kept. Blocks shortly."""
    said = errors(container.work_dir / "dump.log") or stderr.strip()[-300:] or "no message"
    kept = keep(container, "dump", stderr)
    known = explain(f"{said}\n{stderr}")
    if known is None:
        return CheckpointFailed(f"CRIU could not save the job: {said}{kept}", step)
    if known.node_fault or known.retry_later:
        return CheckpointFailed(f"the job was not saved this time: {known.sentence} (CRIU: {said}{kept})", step)
    return NotCheckpointable(
        f"the job cannot be saved now: {_culprit(said)}{known.sentence} (CRIU: {said}{kept})", step
    )


def restore_failure(container: Container, number: int, message: str) -> RestoreFailed:
    """What went wrong when runc could not restore checkpoint `number` (`message`: its last words). The log is kept.
    Blocks shortly."""
    said = errors(container.work_dir / "restore.log") or message.strip()[-300:] or "no message"
    kept = keep(container, "restore", message)
    known = explain(f"{said}\n{message}")
    words = f"{known.sentence} (CRIU: {said}{kept})" if known else f"{said}{kept}"
    fault = node_fault(f"{said}\n{message}")
    return RestoreFailed(f"checkpoint {number} was not restored: {words}", "restore", node_fault=fault)


def _culprit(said: str) -> str:
    """The process that CRIU was at work on, where it says so."""
    found = re.search(r"\(pid: (\d+)\)", said)
    return f"process {found[1]} ({command(int(found[1]))}): " if found else ""


def keep(container: Container, operation: str, words: str) -> str:
    """Copy CRIU's log of a `dump` or `restore` (one that failed; in diagnosis mode any), with runc's `words`, to the
    job root and to the node's folder of such logs. Says where, for the event; empty if it could not be kept. Never
    raises: a log is not worth a job."""
    now = datetime.now(UTC)
    name = f"{now:%Y%m%dT%H%M%S}-{operation}-{container.id[:12]}-{secrets.token_hex(2)}.log"
    text = f"# {operation} of container {container.id} at {now.isoformat()}\n# runc: {words.strip()[-2000:]}\n"
    text += _tail(container.work_dir / f"{operation}.log")
    places = []
    for folder in _folders(container):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for old in sorted(folder.glob("*.log"))[: -(_MOST_KEPT - 1)]:
                old.unlink(missing_ok=True)
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(text, "utf-8", "replace")
            places.append(str(folder / name))
        except OSError as problem:
            log.warning("a log was not kept", container=container.id[:12], reason=str(problem))
    return f"; whole log: {' and '.join(places)}" if places else ""


def _folders(container: Container) -> Iterable[Path]:
    yield container.job_root / KEPT
    if container.failure_logs is not None:
        yield container.failure_logs
