"""A job's own files, wherever they are now: its output, its root layer, its volume.

A job root is read in place while a node has it mounted; otherwise from a reflink copy of the volume's backing file, or
of the file on its node's disk that held it, mounted for the moment. The stack's disk is mounted in the stack's own
mount namespace only, so everything is seen through the eyes of a process in there.
"""

from __future__ import annotations

import contextlib
import posixpath
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from localcloud.linux import mount_table, run
from localcloud.stack.client import StackClient
from localcloud.stack.copy_out import copy_out
from localcloud.stack.stack import StackPlace
from perdure.domain.configuration import JobVolumeConfiguration
from perdure.domain.errors import CommandFailed, ConfigurationInvalid, StackError
from perdure.domain.jobs import folder_name

JOB_ROOTS = Path("/var/lib/perdure/jobs")
XFS_MAGIC = b"XFSB"
CHUNK_BYTES = 1 << 20
TRIES = 5
RETRY_SECONDS = 0.5
LOG_GROUP = "/aws/batch/job"


@contextlib.contextmanager
def job_root(client: StackClient, place: StackPlace, job_id: str) -> Iterator[Path | None]:
    """The job's root as it is now, read-only by courtesy; None when it has none (it ran unprotected, or not yet).

    Raises UnknownJob.
    """
    job = client.placed(job_id)
    mounted = _mounted_job_root(client, job)
    if mounted is not None:
        yield mounted
        return
    with contextlib.ExitStack() as held:
        for volume_id in reversed(job["volumes"]):  # the newest that an agent has formatted
            copy = held.enter_context(_copy_mounted(client, place, partial(_copy_volume, client, volume_id)))
            if copy is not None:
                yield copy
                return
        scratch = _scratch(client, place, job)
        if scratch is not None:
            yield held.enter_context(_copy_mounted(client, place, partial(_copy_file, scratch)))
            return
        yield None


def copy_output(client: StackClient, place: StackPlace, job_id: str, stdout: BinaryIO, stderr: BinaryIO) -> None:
    """Write the job's captured stdout and stderr, each byte once over all attempts. Raises UnknownJob.

    Of attempts that ran unprotected it writes what CloudWatch has, which does not tell the two apart: of all, when none
    was protected, else of those after the last protected one. (Those before it left nothing that the job went on from.)
    """
    after = unprotected_after(client, job_id)
    if after.protected:
        _copy_captured(client, place, job_id, {"stdout": stdout, "stderr": stderr})
    for attempt in after.attempts:
        if attempt.get("log_stream"):
            _copy_log_stream(client, attempt["log_stream"], stdout)


@dataclass(frozen=True)
class Unprotected:
    """Attempts, as the cloud tells them, that ran unprotected after the last protected one; `protected`: was there one,
    so is there a job root?"""

    protected: bool
    attempts: list[dict[str, Any]]


def unprotected_after(client: StackClient, job_id: str) -> Unprotected:
    """Which attempts have left nothing on the job root. Raises UnknownJob.

    An attempt is known by its node and number: a container's id is not the same at dockerd and at ECS. One that runs
    and is known, but whose start was not recorded yet, is taken for what the job's page says of the job.
    """
    attempts = client.placed(job_id)["attempts"]
    page = client.job_page(job_id) or {"attempts": [], "unprotected": ""}
    recorded = {(one["instance_id"], one["attempt"]): one["started_at"] is not None for one in page["attempts"]}

    def is_protected(attempt: dict[str, Any]) -> bool:
        started = recorded.get((attempt["node"], attempt["number"]))
        starts = started is False and attempt["stopped_at"] is None and not page["unprotected"]
        return bool(started) or starts

    protected = list(map(is_protected, attempts))
    last = max((place for place, is_it in enumerate(protected) if is_it), default=-1)
    return Unprotected(last >= 0, attempts[last + 1 :])


def _copy_captured(client: StackClient, place: StackPlace, job_id: str, streams: dict[str, BinaryIO]) -> None:
    """What the job root holds of the output."""
    written = dict.fromkeys(streams, 0)
    for tries_left in reversed(range(TRIES)):
        try:
            with job_root(client, place, job_id) as root:
                if root is None or not (root / "log").is_dir():
                    return
                for name, stream in streams.items():
                    _copy_from(root / "log" / name, written, name, stream)
                return
        except BrokenPipeError:
            raise  # our reader has seen enough
        except (OSError, CommandFailed):
            # The job's node died under our hands: its volume has the rest.
            if not tries_left:
                raise
            time.sleep(RETRY_SECONDS)


def _copy_from(file: Path, written: dict[str, int], name: str, stream: BinaryIO) -> None:
    """Append what `file` holds beyond what was written of it before."""
    try:
        opened = file.open("rb")
    except FileNotFoundError:
        return  # nothing was captured yet
    with opened:
        opened.seek(written[name])
        while chunk := opened.read(CHUNK_BYTES):
            stream.write(chunk)
            written[name] += len(chunk)


def copy_file(client: StackClient, place: StackPlace, job_id: str, path: str, destination: Path) -> list[str]:
    """Copy a file or folder of the job, by its path inside the container, from its volume or its root layer.

    The last attempt's own files, also when it ran unprotected after protected ones. When its node is gone with them,
    they are those of the last protected attempt, and a remark says so.

    Returns remarks, also of what could not be copied. Raises UnknownJob, StackError when there is no such file,
    ConfigurationInvalid for a path that is not absolute.
    """
    if not path.startswith("/"):
        raise ConfigurationInvalid(f"{path!r} is not an absolute path inside the container")
    plain = "/" + posixpath.normpath(path).lstrip("/")
    mount_path = JobVolumeConfiguration().mount_path
    on_volume = plain == mount_path or plain.startswith(mount_path + "/")
    target = destination / posixpath.basename(plain) if destination.is_dir() else destination
    after = unprotected_after(client, job_id)
    remarks = []
    if after.attempts:
        base = _unprotected_layer(client, place, after.attempts)
        if base is not None:
            return copy_out(base, plain, target)
        remarks = ["the last attempt ran unprotected and its node is gone: this is from a protected one before it"]
    with job_root(client, place, job_id) as root:
        if root is None or not after.protected:
            raise StackError(
                f"job {job_id} has no files: it has not run, or ran unprotected and its node is gone with them"
            )
        base = root / "data" if on_volume else root / "layer" / "upper"
        return [*remarks, *copy_out(base, plain[len(mount_path) :] if on_volume else plain, target)]


def _mounted_job_root(client: StackClient, job: dict[str, object]) -> Path | None:
    """The job root through the mount namespace of the job's node; None while it is not mounted there."""
    if not job.get("node"):
        return None
    node = client.cloud("GET", f"/_local/nodes/{job['node']}")
    inside = JOB_ROOTS / folder_name(str(job["id"]))
    try:
        if not any(entry.point == inside for entry in mount_table(node["init_pid"])):
            return None
    except OSError:  # the node died meanwhile
        return None
    return _seen_by(node["init_pid"], inside)


def _scratch(client: StackClient, place: StackPlace, job: dict[str, Any]) -> Path | None:
    """What the job's newest container left on its node's own disk: a job without a volume, in diagnosis mode."""
    nodes = _seen_by(client.state.processes["cloud"], place.folder / "pool" / "nodes")
    for attempt in reversed(job["attempts"]):
        image = nodes / str(attempt["node"]) / "state" / "scratch" / f"{folder_name(str(job['id']))}.xfs"
        if image.is_file():
            return image
    return None


@contextlib.contextmanager
def _copy_mounted(client: StackClient, place: StackPlace, copy: Callable[[Path], None]) -> Iterator[Path | None]:
    """A reflink copy of a job's file system, mounted where the stack's disk is; None when there is none on it yet.

    A copy, because the log of a volume that lost power must be replayed, and that writes.
    """
    cloud = client.state.processes["cloud"]
    enter = ["nsenter", f"--mount=/proc/{cloud}/ns/mnt"]
    inside = place.folder / "pool" / f"look-{secrets.token_hex(8)}"
    folder = _seen_by(cloud, inside)
    image, point = folder / "volume.img", folder / "mounted"
    point.mkdir(parents=True)
    try:
        copy(image)
        with image.open("rb") as file:
            formatted = file.read(len(XFS_MAGIC)) == XFS_MAGIC
        if formatted:
            # nouuid: the original may be mounted on this very kernel. Not ro: its log could not be replayed then.
            run([*enter, "mount", "-o", "loop,nouuid", str(inside / "volume.img"), str(inside / "mounted")])
        yield point if formatted else None
    finally:
        if point.is_mount():
            run([*enter, "umount", str(inside / "mounted")])
        shutil.rmtree(folder)


def _copy_file(source: Path, image: Path) -> None:
    run(["cp", "--reflink=always", str(source), str(image)])


def _copy_volume(client: StackClient, volume_id: str, image: Path) -> None:
    cloud, backing = client.state.processes["cloud"], ""
    while True:
        previous, backing = backing, client.cloud("GET", f"/_local/volumes/{volume_id}")["backing_file"]
        try:
            _copy_file(_seen_by(cloud, Path(backing)), image)
            return
        except CommandFailed:
            if backing == previous:
                raise
            # It was just deleted, which moves its file; the cloud knows where to.


def _unprotected_layer(client: StackClient, place: StackPlace, attempts: list[dict[str, Any]]) -> Path | None:
    """The writable layer of the newest of these containers, which lived on their nodes' own disks, that is still
    there."""
    nodes = _seen_by(client.state.processes["cloud"], place.folder / "pool" / "nodes")
    for attempt in reversed(attempts):
        upper = nodes / str(attempt["node"]) / "docker" / str(attempt["container_id"]) / "upper"
        if upper.is_dir():
            return upper
    return None


def _seen_by(pid: int, path: Path) -> Path:
    """The path as that process sees it."""
    return Path(f"/proc/{pid}/root") / path.relative_to("/")


def _copy_log_stream(client: StackClient, stream: str, out: BinaryIO) -> None:
    token: dict[str, str] = {}
    while True:
        try:
            page = client.logs.get_log_events(
                logGroupName=LOG_GROUP,
                logStreamName=stream,
                startFromHead=True,
                **token,  # type: ignore[arg-type]
            )
        except client.logs.exceptions.ResourceNotFoundException:
            return  # it has not written anything yet
        for event in page["events"]:
            out.write(event["message"].encode() + b"\n")
        if not page["events"] or token.get("nextToken") == page["nextForwardToken"]:
            return
        token = {"nextToken": page["nextForwardToken"]}
