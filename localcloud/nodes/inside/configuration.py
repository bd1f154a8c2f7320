"""What the launcher tells a node's init."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from localcloud.nodes.images.catalogue import CACHE

EngineName = Literal["runc", "docker"]


class DockerPrograms(BaseModel):
    """Which Docker a node runs. containerd, its shim and runc are those on `path`, where it is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dockerd: str = "/usr/sbin/dockerd"
    init: str = "/usr/bin/tini-static"
    path: str | None = None


class NodeConfiguration(BaseModel):
    """Paths as the host sees them. `folder` is the node's own on the pool; `cgroup` its group's path."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instance_id: str
    host_name: str
    folder: Path
    mask_folder: Path
    stacks_folder: Path
    cgroup: str
    runtime: str
    engine: EngineName = "runc"
    docker: DockerPrograms = DockerPrograms()
    images_folder: Path = CACHE
    """The images of this machine (localcloud/nodes/images/catalogue.py)."""
    agent_log: Path
    with_agent: bool = True
    environment: dict[str, str] = Field(default_factory=dict)
    """Complete environment of the agent and the runtime."""
