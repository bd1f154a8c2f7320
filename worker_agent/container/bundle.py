"""What a container's bundle says, read as untrusted input, and the edits to config.json that protection needs.

The rules of its mounts are in mounts.py.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perdure.contracts.resumption import RESUME_VARIABLE
from perdure.domain.checkpoints import MountRule, Surroundings
from perdure.domain.configuration import JOB_LEVEL_NAMES, LONGEST_VALUE, JobVolumeConfiguration
from perdure.domain.errors import NotCheckpointable
from perdure.image.files import TREES
from worker_agent.container.mounts import BundleMount, find_rules, redirect, refuse_hopeless, shared_destinations
from worker_agent.container.restored_network import add_network_hook
from worker_agent.container.seccomp import refuse_io_uring
from worker_agent.container.surroundings import paths_in, same_network
from worker_agent.engine.overlay import seen

SHARED_ANNOTATION = "perdure.shared-mounts"
"""JSON list of mount destinations that are declared shared: outside promise 1."""
SHARED_VARIABLE = "PERDURE_SHARED_MOUNTS"
"""The same in the job's environment, destinations separated by colons: Docker before 25 takes no annotations."""
_OWN_NAMESPACES = {"pid": "its process ids (--pid)", "ipc": "its shared memory (--ipc)"}
_TOLD = (*JOB_LEVEL_NAMES, RESUME_VARIABLE)
"""Variables that the job's workflow is told."""
CRIU_ANNOTATION = "org.criu.config"
VOLUME_VARIABLE = "PERDURE_VOLUME_PATH"
JOB_ID = re.compile(r"[A-Za-z0-9:_-]{1,128}")
"""What a Batch job id may look like (an array child's has a colon). Anything else is no Batch job."""

_ORIGINAL = "config.json.original"
_CONFIG_LIMIT = 16 << 20


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Process(_Lenient):
    env: list[str] = Field(default_factory=list)
    terminal: bool = False


class _Root(_Lenient):
    path: str = "rootfs"


class _Namespace(_Lenient):
    type: str
    path: str = ""


class _Linux(_Lenient):
    cgroupsPath: str = ""
    namespaces: list[_Namespace] | None = None


class _Config(_Lenient):
    """The part of the OCI runtime specification's config.json that we look at."""

    process: _Process = _Process()
    root: _Root = _Root()
    mounts: list[BundleMount] | None = None
    hostname: str = ""
    linux: _Linux = _Linux()
    annotations: dict[str, str] | None = None


@dataclass(frozen=True)
class Bundle:
    """One container's bundle. `environment` holds only the variables that configure Perdure, cut to a sane length."""

    path: Path
    config: _Config
    job_id: str
    attempt: int
    queue: str
    environment: dict[str, str]
    shared: tuple[str, ...]
    surroundings: Surroundings = field(default_factory=Surroundings)

    @property
    def rootfs(self) -> Path:
        """Where the container's root file system is mounted."""
        return self.path / self.config.root.path

    @property
    def cgroups_path(self) -> str:
        """As config.json has it."""
        return self.config.linux.cgroupsPath

    def rules(self, settings: JobVolumeConfiguration) -> tuple[MountRule, ...]:
        """The rule of each mount. NotCheckpointable names a mount that has none."""
        return find_rules(self.config.mounts or [], self.shared, settings)

    def shared_mounts(self) -> list[str]:
        """Where the container sees files that are shared, declared or by their nature."""
        everywhere = JobVolumeConfiguration(scratch=["/"])
        return shared_destinations(find_rules(self.config.mounts or [], self.shared, everywhere))

    @property
    def hosts_file(self) -> Path | None:
        """The container engine's own file behind /etc/hosts, if it makes one for each container."""
        found = [mount.source for mount in self.config.mounts or [] if mount.destination == "/etc/hosts"]
        return Path(found[0]) if found and found[0] != "/etc/hosts" else None

    def own_network(self) -> bool:
        """Does the container engine give it a network namespace? (Docker names the host's own by a path.)"""
        return any(
            one.type == "network" and not (one.path and same_network(one.path))
            for one in self.config.linux.namespaces or []
        )

    def check(self) -> None:
        """NotCheckpointable, with the reason, for a container that cannot be protected whatever is configured."""
        if self.config.process.terminal:
            raise NotCheckpointable("the container has a terminal (tty), which cannot be brought back")
        own = {one.type for one in self.config.linux.namespaces or [] if not one.path}
        for kind, words in _OWN_NAMESPACES.items():
            if kind not in own:
                raise NotCheckpointable(f"the container shares {words} with others, which cannot be brought back")
        refuse_hopeless(self.config.mounts or [], self.shared)


def read_bundle(path: Path, kept_in: Path | None = None) -> Bundle | None:
    """The bundle at `path`, as it was before our edits if an original was kept in the folder `kept_in`; None when its
    environment names no Batch job with a sane id.

    Raises NotCheckpointable for a config.json that cannot be read or understood.
    """
    source = path / "config.json"
    if kept_in is not None and (kept_in / _ORIGINAL).exists():
        source = kept_in / _ORIGINAL
    try:
        config = _Config.model_validate(_sane(json.loads(_read(source))))
    except ValidationError as problem:
        # Without the values: the environment holds secrets.
        places = [".".join(map(str, error["loc"])) for error in problem.errors(include_input=False)]
        raise NotCheckpointable(f"{path}/config.json cannot be understood at {', '.join(places)[:200]}") from None
    except (OSError, ValueError) as problem:
        raise NotCheckpointable(f"{path}/config.json cannot be read: {type(problem).__name__}") from None
    environment = {name: value for name, _, value in (entry.partition("=") for entry in config.process.env)}
    job_id = environment.get("AWS_BATCH_JOB_ID", "")
    if not JOB_ID.fullmatch(job_id):
        return None
    return Bundle(
        path=path,
        config=config,
        job_id=job_id,
        attempt=_attempt(environment.get("AWS_BATCH_JOB_ATTEMPT", "")),
        queue=environment.get("AWS_BATCH_JQ_NAME", "")[:LONGEST_VALUE],
        environment={name: environment[name][: LONGEST_VALUE + 1] for name in _TOLD if name in environment},
        surroundings=Surroundings(host_name=config.hostname[:LONGEST_VALUE], paths=paths_in(environment)),
        shared=_shared(config.annotations or {}) + tuple(filter(None, environment.get(SHARED_VARIABLE, "").split(":"))),
    )


def _read(path: Path) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(_CONFIG_LIMIT)


def _sane(value: Any) -> Any:
    """The same JSON without lone surrogates, which no UTF-8 can carry."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def _attempt(text: str) -> int:
    return max(1, int(text)) if re.fullmatch(r"[0-9]{1,3}", text) else 1


def _shared(annotations: dict[str, str]) -> tuple[str, ...]:
    try:
        listed = json.loads(annotations.get(SHARED_ANNOTATION, "[]"))
    except ValueError:
        return ()
    return tuple(one for one in listed if isinstance(one, str)) if isinstance(listed, list) else ()


def edit_config(
    bundle: Bundle,
    *,
    job_root: Path,
    mount_path: str,
    rules: Sequence[MountRule],
    criu_config: Path,
    keep_in: Path,
    restore: bool = False,
    io_uring: bool = True,
    network: Path | None = None,
) -> None:
    """Bind the job's data at `mount_path`, tell the job where, let captured mounts come from the job root by their
    `rules`, name CRIU's options file, do for a `restore` what only a create does, and without `io_uring` take that
    away. Always from the original, which is kept in the folder `keep_in`; so it can be done again."""
    original = keep_in / _ORIGINAL
    if not original.exists():
        _write(original, (bundle.path / "config.json").read_bytes())
    config: dict[str, Any] = json.loads(original.read_bytes())
    mounts = config.setdefault("mounts", None) or []
    if not any(mount.get("destination") == mount_path for mount in mounts):
        mounts.append(
            {
                "destination": mount_path,
                "type": "bind",
                "source": str(seen(job_root, TREES["data"])),
                "options": ["rbind", "rw"],
            }
        )
        config["process"]["env"] = [*config["process"]["env"], f"{VOLUME_VARIABLE}={mount_path}"]
    config["mounts"] = mounts
    redirect(config, rules, job_root)
    if restore:
        add_network_hook(config)
    for mount in mounts:
        if mount.get("type") == "bind" and os.path.islink(mount.get("source", "")):
            # Debian's docker-init is a link. CRIU mounts the source again by its name and follows none.
            mount["source"] = os.path.realpath(mount["source"])
    config["annotations"] = {**(config.get("annotations") or {}), CRIU_ANNOTATION: str(criu_config)}
    if network is not None:
        others = [one for one in config["linux"].get("namespaces") or [] if one.get("type") != "network"]
        config["linux"]["namespaces"] = [*others, {"type": "network", "path": str(network)}]
    if not io_uring:
        refuse_io_uring(config, os.uname().machine)
    _write(bundle.path / "config.json", json.dumps(config).encode())


def restore_config(bundle_path: Path, kept_in: Path) -> None:
    """Undo `edit_config`. Nothing happens if nothing was edited."""
    original = kept_in / _ORIGINAL
    if original.exists():
        _write(bundle_path / "config.json", original.read_bytes())


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all; the mode of the file that it replaces stays."""
    temporary = path.with_name(path.name + ".new")
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)
