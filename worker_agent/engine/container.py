"""What the engine works on: one container of a job, the tools it uses, and whose checkpoint it is."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from perdure.domain.checkpoints import ContainerImage, MountRule, Surroundings
from perdure.image.files import TREES
from worker_agent.engine.gpu import GpuTools
from worker_agent.engine.overlay import OverlayMount
from worker_agent.engine.page_sink import SparePageSinks
from worker_agent.freezer import Freezer


@dataclass(frozen=True)
class Tools:
    """The outside programs. `path_first` comes first on PATH: there `gzip` is `cat`, and dump and restore must agree
    on it (CRIU pipes tmpfs contents through `tar --gzip`, which took 1.0 s of a 1.4 s dump)."""

    criu: Path
    path_first: Path
    runc: str = "runc"
    gpu: GpuTools = field(default_factory=GpuTools)
    page_sinks: SparePageSinks | None = field(default=None, compare=False)
    """Those that are loaded beforehand; None: each checkpoint loads its own."""

    def environment(self) -> dict[str, str]:
        """For runc. Versions from 1.2 ignore --criu and look on PATH."""
        path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        # CRIU keeps tmpfs contents by `tar`, whose own format cuts times to whole seconds.
        return {**os.environ, "PATH": f"{self.path_first}:{self.criu.parent}:{path}", "TAR_OPTIONS": "--format=posix"}


@dataclass(frozen=True)
class Identity:
    """Whose checkpoint it is; goes into the manifest."""

    job_id: str
    epoch: int
    attempt: int
    instance_id: str
    zone: str = ""


@dataclass(frozen=True)
class Container:
    """One container of a job on this node.

    `work_dir` is local to the node and the engine's alone (logs of CRIU, its options file); `lower_layers` are those
    of the overlay that was found at `rootfs` before anything was changed, `engines_overlay`, in whose place ours comes
    (None: ours lies over it); `cgroups_path` is config.json's.
    """

    id: str
    bundle: Path
    runc_root: str
    job_root: Path
    work_dir: Path
    keeper_socket: Path
    rootfs: Path
    lower_layers: tuple[str, ...]
    tools: Tools
    cgroups_path: str = ""
    own_network: bool = False
    """It has a network namespace of its own: no port or address of the node's is in its way."""
    mounts: tuple[MountRule, ...] = ()
    surroundings: Surroundings = field(default_factory=Surroundings)
    """As its processes know them; goes into every manifest."""
    engines_overlay: OverlayMount | None = None
    image: ContainerImage | None = None
    failure_logs: Path | None = None
    """Folder of this node in which logs of failed dumps and restores are kept."""
    init_pid: int = 0
    freezer: Freezer | None = None
    doubts: set[str] = field(default_factory=set, compare=False)
    """The same for all copies: what went wrong with the page sink since the newest checkpoint. With any, the next one
    does without it."""

    def with_init(self, pid: int) -> Container:
        """The same container once its first process exists (created, or restored and left stopped).

        FreezerFailed if that process is gone already."""
        return replace(self, init_pid=pid, freezer=Freezer.of_process(pid))

    @property
    def cgroup(self) -> str:
        """The cgroup's path in its hierarchy; empty if config.json leaves it to runc.

        config.json names it by that path, or, for Docker's systemd driver, as `slice:prefix:name`: the unit
        `prefix-name.scope` in a slice, whose dashes are levels (systemd.slice(5))."""
        if ":" not in self.cgroups_path:
            path = os.path.normpath("/" + self.cgroups_path.lstrip("/"))
            return path if self.cgroups_path.startswith("/") and path != "/" else ""
        top, prefix, name = [*self.cgroups_path.split(":", 2), "", ""][:3]
        words = (top or "system.slice").removesuffix(".slice").strip("-").split("-")
        levels = ["-".join(words[: count + 1]) + ".slice" for count in range(len(words)) if words[0]]
        unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
        return "/" + "/".join([*levels, unit])

    @property
    def shared_mounts(self) -> list[str]:
        """Where it sees what is not the job's alone."""
        return [rule.destination for rule in self.mounts if rule.rule == "shared"]

    @property
    def trees(self) -> list[Path]:
        """Its own files, which come back with it."""
        return [self.job_root / live for live in TREES.values()]

    @property
    def criu_config(self) -> Path:
        """The file that config.json's annotation `org.criu.config` must name."""
        return self.work_dir / "criu.conf"

    @property
    def frozen_by_us(self) -> Path:
        """Exists while the container stands frozen because of a checkpoint, not because somebody paused it."""
        return self.work_dir / "frozen"

    @property
    def runc_folder(self) -> Path:
        """Where runc keeps this container's state."""
        return Path(self.runc_root or "/run/runc") / self.id
