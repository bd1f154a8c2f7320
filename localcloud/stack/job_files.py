"""A job's own files, wherever they are now: its output, its root layer, its volume.

A job root is read in place while a node has it mounted; otherwise from a reflink copy of the volume's backing file,
mounted for the moment. The stack's disk is mounted in the stack's own mount namespace only, so everything is
seen through the eyes of a process in there.
"""

from __future__ import annotations

import contextlib
import posixpath
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

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
            copy = held.enter_context(_copy_mounted(client, place, volume_id))
            if copy is not None:
                yield copy
                return
        yield None


def copy_output(client: StackClient, place: StackPlace, job_id: str, stdout: BinaryIO, stderr: BinaryIO) -> None:
    """Write the job's captured stdout and stderr, each byte once over all attempts. Raises UnknownJob.

    Of a job that ran unprotected it writes what CloudWatch has, which does not tell the two apart.
    """
    streams = {"stdout": stdout, "stderr": stderr}
    written = dict.fromkeys(streams, 0)
    for tries_left in reversed(range(TRIES)):
        try:
            with job_root(client, place, job_id) as root:
                if root is None or not (root / "log").is_dir():
                    break
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
    for attempt in client.placed(job_id)["attempts"]:
        if attempt.get("log_stream"):
            _copy_log_stream(client, attempt["log_stream"], stdout)


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

    Returns remarks: what could not be copied. Raises UnknownJob, StackError when there is no such file,
    ConfigurationInvalid for a path that is not absolute.
    """
    if not path.startswith("/"):
        raise ConfigurationInvalid(f"{path!r} is not an absolute path inside the container")
    plain = "/" + posixpath.normpath(path).lstrip("/")
    mount_path = JobVolumeConfiguration().mount_path
    on_volume = plain == mount_path or plain.startswith(mount_path + "/")
    with job_root(client, place, job_id) as root:
        if root is not None:
            base = root / "data" if on_volume else root / "layer" / "upper"
        else:
            base, on_volume = _unprotected_layer(client, place, job_id), False
        relative = plain[len(mount_path) :] if on_volume else plain
        target = destination / posixpath.basename(plain) if destination.is_dir() else destination
        return copy_out(base, relative, target)


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


@contextlib.contextmanager
def _copy_mounted(client: StackClient, place: StackPlace, volume_id: str) -> Iterator[Path | None]:
    """A reflink copy of a volume, mounted where the stack's disk is; None when there is no file system on it yet.

    A copy, because the log of a volume that lost power must be replayed, and that writes.
    """
    cloud = client.state.processes["cloud"]
    enter = ["nsenter", f"--mount=/proc/{cloud}/ns/mnt"]
    inside = place.folder / "pool" / f"look-{secrets.token_hex(8)}"
    folder = _seen_by(cloud, inside)
    image, point = folder / "volume.img", folder / "mounted"
    point.mkdir(parents=True)
    try:
        _copy_image(client, volume_id, image)
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


def _copy_image(client: StackClient, volume_id: str, image: Path) -> None:
    cloud, backing = client.state.processes["cloud"], ""
    while True:
        previous, backing = backing, client.cloud("GET", f"/_local/volumes/{volume_id}")["backing_file"]
        try:
            run(["cp", "--reflink=always", str(_seen_by(cloud, Path(backing))), str(image)])
            return
        except CommandFailed:
            if backing == previous:
                raise
            # It was just deleted, which moves its file; the cloud knows where to.


def _unprotected_layer(client: StackClient, place: StackPlace, job_id: str) -> Path:
    """The writable layer of a container that lived on its node's own disk. Raises StackError when that is gone."""
    nodes = _seen_by(client.state.processes["cloud"], place.folder / "pool" / "nodes")
    for attempt in reversed(client.placed(job_id)["attempts"]):
        upper = nodes / str(attempt["node"]) / "docker" / str(attempt["container_id"]) / "upper"
        if upper.is_dir():
            return upper
    raise StackError(f"job {job_id} has no files: it has not run, or ran unprotected and its node is gone with them")


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
