"""What the agent knows of its own instance: identity, notice, folders."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

from perdure.domain.jobs import folder_name
from perdure.domain.nodes import Node, NodeState, Notice
from perdure.settings import AgentSettings
from worker_agent.engine import GpuTools, SparePageSinks, Tools, cpu_features
from worker_agent.node.metadata import Identity
from worker_agent.node.stores import NodeStores

_IDENTITY = "identity.json"


class ThisNode:
    """One per agent. `identified` is set once the metadata service has said who we are; `interrupted` by a notice
    with a deadline (a rebalance recommendation changes nothing for containers)."""

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        gpu = GpuTools(settings.gpu, settings.nvidia_smi, settings.cuda_checkpoint)
        self.page_sinks = SparePageSinks()
        self.tools = Tools(settings.criu, settings.criu_path_first, settings.runc, gpu, self.page_sinks)
        self.stores = NodeStores(settings.store_key_file)
        self.identified = asyncio.Event()
        self.interrupted = asyncio.Event()
        self.notice: Notice | None = None
        self._identity: Identity | None = None
        self._first_seen = datetime.now(UTC)
        self._loop = asyncio.get_running_loop()

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
        """The metadata service has answered. Kept for the next agent of this boot, which must not wait for it."""
        self._identity = identity
        self._loop.call_soon_threadsafe(self.identified.set)
        self.settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.settings.run_dir / _IDENTITY).write_text(identity.model_dump_json())

    def remember(self) -> None:
        """Who we are, as an earlier agent of this boot knew (the run folder does not outlive a boot). Blocks."""
        hardware()
        try:
            self._identity = Identity.model_validate_json((self.settings.run_dir / _IDENTITY).read_text())
        except (OSError, ValueError):
            return
        self._loop.call_soon_threadsafe(self.identified.set)

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
            cpu_features=cpu_features(),
            first_seen_at=self._first_seen,
            changed_at=datetime.now(UTC),
            notice=self.notice,
            region=self.identity.region,
            host_name=socket.gethostname(),
            ips=[self.identity.privateIp] if self.identity.privateIp else [],
            arch=self.identity.architecture or os.uname().machine,
            vcpus=os.cpu_count(),
            memory_mib=hardware().memory_mib,
            cpu_model=hardware().cpu_model,
            cpu_vendor=hardware().cpu_vendor,
        )

    def job_root(self, job_id: str) -> Path:
        """Mount point of the job's volume, or of its file system on this instance's disk."""
        return self.settings.state_dir / "jobs" / folder_name(job_id)

    @property
    def scratch(self) -> Path:
        """Folder of the files that hold job roots, for jobs without a volume."""
        return self.settings.state_dir / "scratch"

    @property
    def containers(self) -> Path:
        """Folder of the marks of all protected containers."""
        return self.settings.run_dir / "containers"


@dataclass(frozen=True)
class Hardware:
    """What the kernel says of this machine. Empty where it does not: ARM has no model name."""

    cpu_model: str
    cpu_vendor: str
    memory_mib: int | None
    """As the kernel counts it: a little less than the instance type's."""


@cache
def hardware() -> Hardware:
    """Read once, when the agent starts: with hundreds of CPUs the kernel takes its time. Blocks."""
    cpu, memory = Path("/proc/cpuinfo").read_text(), Path("/proc/meminfo").read_text()
    cpu_features()

    def word(label: str) -> str:
        found = re.search(rf"^{re.escape(label)}\s*:\s*(.*)$", cpu, re.MULTILINE)
        return found[1].strip() if found else ""

    vendor = word("vendor_id") or ("ARM" if word("CPU implementer") == "0x41" else "")
    total = re.search(r"^MemTotal:\s*(\d+) kB", memory, re.MULTILINE)
    return Hardware(word("model name"), vendor, int(total[1]) // 1024 if total else None)
