"""What the launcher tells a node's init."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


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
    agent_log: Path
    with_agent: bool = True
    environment: dict[str, str] = Field(default_factory=dict)
    """Complete environment of the agent and the runtime."""
