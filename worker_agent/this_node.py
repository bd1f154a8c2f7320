"""What the agent knows of its own instance: identity, notice, folders."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from perdure.domain.jobs import folder_name
from perdure.domain.nodes import Node, NodeState, Notice
from perdure.settings import AgentSettings
from worker_agent.engine import Tools
from worker_agent.metadata import Identity


class ThisNode:
    """One per agent. `identified` is set once the metadata service has said who we are; `interrupted` by a notice
    with a deadline (a rebalance recommendation changes nothing for containers)."""

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        self.tools = Tools(criu=settings.criu, path_first=settings.criu_path_first, runc=settings.runc)
        self.identified = asyncio.Event()
        self.interrupted = asyncio.Event()
        self.notice: Notice | None = None
        self._identity: Identity | None = None
        self._first_seen = datetime.now(UTC)

    @property
    def identity(self) -> Identity:
        """Only after `identified`."""
        assert self._identity is not None
        return self._identity

    @property
    def instance_id(self) -> str:
        """Only after `identified`."""
        return self.identity.instanceId

    def identify(self, identity: Identity) -> None:
        """The metadata service has answered."""
        self._identity = identity
        self.identified.set()

    def interrupt(self, notice: Notice) -> None:
        """AWS takes this instance back."""
        self.notice = notice
        self.interrupted.set()

    def describe(self) -> Node:
        """The inventory's view of it, now."""
        return Node(
            instance_id=self.instance_id,
            zone=self.identity.availabilityZone,
            instance_type=self.identity.instanceType,
            state=NodeState.NOTICED if self.interrupted.is_set() else NodeState.READY,
            agent_version=version("perdure"),
            first_seen_at=self._first_seen,
            changed_at=datetime.now(UTC),
            notice=self.notice,
        )

    def job_root(self, job_id: str) -> Path:
        """Mount point of the job's volume."""
        return self.settings.state_dir / "jobs" / folder_name(job_id)

    @property
    def containers(self) -> Path:
        """Folder of the marks of all protected containers."""
        return self.settings.run_dir / "containers"
