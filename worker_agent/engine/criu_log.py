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
from worker_agent.engine import machine
from worker_agent.engine.container import Container
from worker_agent.engine.explanations import explain, telling
from worker_agent.engine.known_failures import Blame
from worker_agent.proc import command

log = structlog.get_logger()

KEPT = "failures"
"""The folder of kept logs on the job root."""
_MOST_KEPT = 10
"""Logs that a folder keeps; the oldest go."""
_TAIL = 256 * 1024
"""Bytes of a log that are kept."""
_ERROR = re.compile(r"^(?:(?:\(\d+\.\d+\)|pie:|\d+:)\s*)*Error \(([^)]*)\): (.*)$")
"""`(00.85) pie: 1: Error (place): words` (CRIU 4.2), and the order of earlier versions."""
_MOST_ERRORS = 400
_MOST_TOLD = 4
_LONGEST = 240
"""Characters of one of CRIU's lines in a message."""


def errors(log_file: Path) -> list[str]:
    """The errors of a whole CRIU log, `place: words`, in the order in which they were said; empty if there is no log or
    no error in it. The causes come first, so the first ones are kept."""
    found: list[str] = []
    try:
        with open(log_file, encoding="utf-8", errors="replace") as file:
            for line in file:
                if len(found) < _MOST_ERRORS and "Error (" in line and (match := _ERROR.match(line.rstrip())):
                    found.append(f"{match[1]}: {match[2]}")
    except FileNotFoundError:
        pass
    return found


def _told(lines: list[str]) -> str:
    """The first of them that tell something, for people who know CRIU."""
    return "; ".join(line[:_LONGEST] for line in telling(lines)[:_MOST_TOLD])


def _tail(log_file: Path) -> str:
    try:
        with open(log_file, "rb") as file:
            file.seek(max(0, log_file.stat().st_size - _TAIL))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def dump_failure(container: Container, stderr: str, *, step: str = "dump") -> CheckpointFailed:
    """What went wrong when a dump ended badly (`stderr`: runc's last words). NotCheckpointable if the job holds what
    can never be dumped. The log is kept. Blocks shortly."""
    lines = errors(container.work_dir / "dump.log")
    said = _told(lines) or stderr.strip()[-300:] or "no message"
    kept = keep(container, "dump", stderr)
    known = explain(lines) or explain(stderr)
    if known is None:
        return CheckpointFailed(f"CRIU could not save the job: {said}{kept}", step)
    if known.blame is not Blame.JOB:
        return CheckpointFailed(f"the job was not saved this time: {known.sentence} (CRIU: {said}{kept})", step)
    return NotCheckpointable(
        f"the job cannot be saved now: {_culprit(lines)}{known.sentence} (CRIU: {said}{kept})", step
    )


def restore_failure(container: Container, message: str, *, needed_bytes: int = 0) -> RestoreFailed:
    """Why runc could not restore a checkpoint of `needed_bytes` memory (`message`: runc's last words), and whose fault
    it was. CRIU's own words are in it, for the log is kept where nobody may be able to read it later. Blocks shortly.
    """
    lines = errors(container.work_dir / "restore.log")
    said = _told(lines) or message.strip()[-300:] or "no message"
    keep(container, "restore", message)
    known = explain(lines) or explain(message)
    if known is None:
        return RestoreFailed(f"CRIU could not bring it back, for a reason that is not known yet: {said}", "restore")
    short = known.blame is Blame.MEMORY and machine.available_bytes() < needed_bytes
    # A port or an address of the container's own network is nobody else's.
    own = container.own_network and known.blame is Blame.NODE and "inet" in said
    return RestoreFailed(
        f"{known.sentence} (CRIU: {said})",
        "restore",
        node_fault=short or (known.blame is Blame.NODE and not own),
        image_fault=known.blame is Blame.IMAGE,
    )


def _culprit(lines: list[str]) -> str:
    """The process that CRIU was at work on, where it says so."""
    found = re.search(r"\(pid: (\d+)\)", "\n".join(lines))
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
