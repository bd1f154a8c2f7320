"""EC2 worker instances with an agent on them, and what AWS announces about them."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from perdure.domain.values import Frozen


class NodeState(StrEnum):
    """What a node is fit for: `ready` takes jobs, `noticed` is about to be reclaimed, `gone` is lost."""

    READY = "ready"
    NOTICED = "noticed"
    GONE = "gone"


class NoticeKind(StrEnum):
    """`interruption` has a deadline; `rebalance` is an early hint without one."""

    INTERRUPTION = "interruption"
    REBALANCE = "rebalance"


class Notice(Frozen):
    """What the metadata service announced. `notice_id` is a hash of kind, instance and time: AWS gives no id."""

    notice_id: str
    kind: NoticeKind
    instance_id: str
    seen_at: datetime
    deadline: datetime | None = None


class Node(Frozen):
    """A worker instance. `zone` is an availability zone name such as us-east-1a. Times are UTC."""

    instance_id: str
    zone: str
    instance_type: str = ""
    state: NodeState = NodeState.READY
    agent_version: str = ""
    cpu_features: str = ""
    """Instruction sets of its CPU, as words."""
    first_seen_at: datetime | None = None
    changed_at: datetime | None = None
    notice: Notice | None = None
    region: str = ""
    pay_type: str = ""
    """`spot` or `on-demand`, as EC2 says (InstanceLifecycle); empty: not known."""
    launched_at: datetime | None = None
    """As EC2 says (LaunchTime): what AWS bills begins here."""
    ended_at: datetime | None = None
    ended_by: str = ""
    """Who ended the instance: `aws` took it back (its first hour is free then), `user` (anybody else); empty: not
    known."""
    host_name: str = ""
    ips: list[str] = Field(default_factory=list)
    arch: str = ""
    vcpus: int | None = None
    memory_mib: int | None = None
    cpu_model: str = ""
    cpu_vendor: str = ""
