"""The rule of every mount of a container: what becomes of it at a checkpoint and a restore.

See docs/architecture.md, "Where bytes live".

    captured   lives on the job root, goes back with every restore: the job's data, image VOLUMEs and anonymous volumes,
               configured host scratch
    readonly   stays where it is; a restore wants the same there
    shared     a network file system, or declared: the same, and what the job writes there is outside the promise
    fresh      made anew for each container by the runtime or the container engine; a tmpfs's content is in the image

Anything else makes the job unprotectable, by name. The rules are fixed at create and go into every manifest.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from perdure.domain.checkpoints import MountRule
from perdure.domain.configuration import JobVolumeConfiguration
from perdure.domain.errors import CommandFailed, CommandTimeout, NotCheckpointable, RestoreFailed
from perdure.image.files import TREES, clone_command
from perdure.image.mounts import Mount, delete_tree, read_mounts
from worker_agent.engine.overlay import seen

CAPTURED, READONLY, SHARED, FRESH = "captured", "readonly", "shared", "fresh"

_MADE_ANEW = {"proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "tmpfs", "devtmpfs"}
"""File systems that the runtime makes for each container. A tmpfs's contents are in the memory image."""
_ENGINES_OWN = {"/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/sbin/docker-init", "/dev/init"}
"""Files that container engines bind from their own state folder and write anew for each container."""
_ECS_OWN = re.compile(r"/opt/ecs/metadata/[^/]+|/var/log/amazon/ssm|/managed-agents/.*|/ecs-execute-command-[^/]+.*")
"""Destinations that the ECS agent binds for itself (metadata file, ECS Exec)."""
_HOLDS_DATA = re.compile(r"/dev/(shm|mqueue|hugepages)(/.*)?")
"""Folders below /dev of which a bind is not just a device."""
_ENGINES_VOLUME = re.compile(r"/.*/volumes/([0-9a-f]{64}|ecs-[^/]+)/_data")
"""Where Docker keeps anonymous volumes (64 hex digits), image VOLUMEs among them, and those that ECS names for a
task's own scratch. Volumes with a name of their own may be used by other containers too."""
_NETWORK = re.compile(r"(nfs4?|lustre|ceph|cifs|smb3|9p|beegfs|gpfs|ocfs2|gfs2|afs|virtiofs|fuse\..+)")
"""File systems that several machines see: shared by nature."""
_COPY_SECONDS = 600.0


class BundleMount(BaseModel):
    """An entry of config.json's `mounts`, as far as we look at it."""

    model_config = ConfigDict(extra="ignore")

    destination: str
    type: str = ""
    source: str = ""
    options: list[str] = Field(default_factory=list)


def find_rules(
    mounts: Iterable[BundleMount],
    declared: Sequence[str],
    settings: JobVolumeConfiguration,
    table: Sequence[Mount] | None = None,
) -> tuple[MountRule, ...]:
    """The rule of each mount, with the job's data at the configured path. `declared`: destinations said to be shared;
    `table`: the node's mounts, by default as they are.

    NotCheckpointable names a mount that has none.
    """
    table = read_mounts() if table is None else table
    rules = [_rule(mount, declared, settings, table) for mount in mounts]
    if not any(rule.destination == settings.mount_path for rule in rules):
        rules.append(MountRule(destination=settings.mount_path, rule=CAPTURED, source=TREES["data"]))
    return tuple(rules)


def refuse_hopeless(mounts: Iterable[BundleMount], declared: Sequence[str]) -> None:
    """NotCheckpointable, by name, for a mount that no configuration could give a rule."""
    everywhere = JobVolumeConfiguration(scratch=["/"])
    table = read_mounts()
    for mount in mounts:
        _rule(mount, declared, everywhere, table)


def _rule(
    mount: BundleMount, declared: Sequence[str], settings: JobVolumeConfiguration, table: Sequence[Mount]
) -> MountRule:
    below = _under(mount.source, table)
    place = {"destination": mount.destination, "source": mount.source, "kind": below.kind, "device": below.source}
    if mount.type in _MADE_ANEW:
        return MountRule(destination=mount.destination, rule=FRESH, source=mount.source)
    if set(mount.options) & {"ro", "rro"}:
        return MountRule(rule=READONLY, **place)
    if mount.destination in declared or _NETWORK.fullmatch(below.kind):
        return MountRule(rule=SHARED, **place)
    if mount.destination in _ENGINES_OWN or _ECS_OWN.fullmatch(mount.destination):
        return MountRule(destination=mount.destination, rule=FRESH, source=mount.source)
    if mount.source.startswith("/dev/") and not _HOLDS_DATA.fullmatch(mount.source):
        return MountRule(destination=mount.destination, rule=FRESH, source=mount.source)
    volume = _ENGINES_VOLUME.fullmatch(mount.source) is not None
    captured = volume or _is_scratch(mount.source, settings.scratch)
    if captured and not _HOLDS_DATA.fullmatch(mount.source) and os.path.isdir(mount.source):
        own = f"{TREES['volumes']}/{hashlib.sha256(os.fsencode(mount.destination)).hexdigest()[:16]}"
        return MountRule(
            destination=mount.destination, rule=CAPTURED, source=own, replaces=mount.source, engines=volume
        )
    raise NotCheckpointable(
        f"the mount {mount.destination[:200]!r} (from {mount.source[:200]!r}) is writable and lies outside the job "
        "volume; declare it shared, mount it read-only, or configure its source as scratch"
    )


def _under(path: str, table: Sequence[Mount]) -> Mount:
    """The mount that a path of this node lies on; nothing of one for a source that is no path."""
    if not path.startswith("/"):
        return Mount("", "", "", "")
    real = os.path.realpath(path)
    around = [mount for mount in table if real == mount.point or real.startswith(mount.point.rstrip("/") + "/")]
    return max(around, key=lambda mount: len(mount.point), default=Mount("", "", "", ""))


def _is_scratch(source: str, scratch: Iterable[str]) -> bool:
    path = os.path.normpath(source)
    return any(path == top or path.startswith(top.rstrip("/") + "/") for top in map(os.path.normpath, scratch))


def shared_destinations(rules: Iterable[MountRule]) -> list[str]:
    """Where the job sees files that are outside promise 1."""
    return [rule.destination for rule in rules if rule.rule == SHARED]


def redirect(config: dict[str, Any], rules: Iterable[MountRule], job_root: Path) -> None:
    """Change config.json's mounts so that those captured from elsewhere come from the job root."""
    own = {rule.destination: rule for rule in rules if rule.rule == CAPTURED and rule.replaces}
    for mount in config.get("mounts") or []:
        rule = own.get(mount.get("destination"))
        if rule is not None and mount.get("source") == rule.replaces:
            mount["source"] = str(seen(job_root, rule.source))


def make_volumes(rules: Iterable[MountRule], job_root: Path, *, fresh: bool) -> None:
    """Make the folders of captured mounts where they are missing, as the job sees them. Blocks.

    `fresh`: with what the container engine put into its volume (an image's files). Host scratch starts empty: what
    lies there belongs to others. Each has the owner and mode of the folder that it replaces. OSError, CommandFailed.
    """
    for rule in rules:
        folder = seen(job_root, rule.source)
        if rule.rule != CAPTURED or not rule.replaces or folder.is_dir():
            continue
        status = os.stat(rule.replaces)
        if fresh and rule.engines:
            argv = clone_command(Path(rule.replaces), folder)
            try:
                done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COPY_SECONDS)
            except subprocess.TimeoutExpired as error:
                delete_tree(folder)
                raise CommandTimeout(argv, _COPY_SECONDS, "") from error
            if done.returncode != 0:
                delete_tree(folder)
                raise CommandFailed(argv, done.returncode, done.stderr.decode("utf-8", "replace"))
        else:
            folder.mkdir()
        os.chown(folder, status.st_uid, status.st_gid)
        os.chmod(folder, status.st_mode & 0o7777)


def check_same(wanted: Iterable[MountRule], here: Iterable[MountRule]) -> None:
    """Does this container have what the checkpoint's had? RestoreFailed, the node's fault, names the first mount that
    is missing, has another rule, or comes from another file system (its kind, and for a network one its source)."""
    found = {rule.destination: rule for rule in here}
    for rule in wanted:
        other = found.get(rule.destination)
        if other is None:
            raise _mismatch(rule, "this container has no such mount")
        if other.rule != rule.rule:
            raise _mismatch(rule, f"here it is {other.rule}")
        if rule.rule not in (READONLY, SHARED) or not rule.kind:
            continue
        if other.kind != rule.kind:
            raise _mismatch(rule, f"there it was a {rule.kind} file system, here it is {other.kind or 'none'}")
        if _NETWORK.fullmatch(rule.kind) and other.device != rule.device:
            raise _mismatch(rule, f"there it came from {rule.device}, here from {other.device}")


def _mismatch(rule: MountRule, what: str) -> RestoreFailed:
    said = f"the checkpoint's {rule.rule} mount {rule.destination} is not the same on this node: {what}"
    return RestoreFailed(said, "mounts", node_fault=True)
