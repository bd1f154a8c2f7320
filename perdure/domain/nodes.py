"""EC2 worker instances with an agent on them, what AWS announces about them, and what EC2 says of them."""

from __future__ import annotations

from datetime import datetime, timedelta
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


ASSUMED_NOTICE = timedelta(seconds=120)
"""AWS announces an interruption two minutes ahead; a notice without a time counts from when it was seen."""


class Notice(Frozen):
    """What AWS announced, by the metadata service or by an event. `notice_id` tells one announcement of one source from
    the next: a hash of kind, instance and time where AWS gives no id, else of the event's id."""

    notice_id: str
    kind: NoticeKind
    instance_id: str
    seen_at: datetime
    deadline: datetime | None = None

    @property
    def ends_at(self) -> datetime:
        """When the instance goes, as far as is known (of an interruption)."""
        return self.deadline or self.seen_at + ASSUMED_NOTICE

    def repeats(self, other: Notice) -> bool:
        """Whether both are the same announcement, heard from two sources. They have no id in common, and their times
        differ by seconds; AWS does not announce two of one kind for an instance within two minutes."""
        same = (self.kind, self.instance_id) == (other.kind, other.instance_id)
        return same and abs(self.ends_at - other.ends_at) < ASSUMED_NOTICE


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


class InstanceState(Frozen):
    """`state` is EC2's word (running, shutting-down, terminated, …) or `unknown` when EC2 does not know the id.

    The rest as in `Node`; `ended_at` only where EC2 tells the time.
    """

    instance_id: str
    state: str
    pay_type: str = ""
    launched_at: datetime | None = None
    ended_at: datetime | None = None
    ended_by: str = ""

    @property
    def gone(self) -> bool:
        """Nothing on that instance can write any more."""
        return self.state in {"terminated", "unknown"}

    @property
    def ending(self) -> bool:
        """It does no more work, and AWS bills it no longer."""
        return self.gone or self.state in {"shutting-down", "stopping", "stopped"}


JUST_PASSED = timedelta(minutes=5)
EC2_SAYS = ("pay_type", "launched_at", "ended_at", "ended_by")
"""Fields of a node that its agent does not know."""


def as_told(known: Node | None, told: Node) -> Node:
    """What its agent told, and what it does not know: EC2's words and when the node was first seen. One that was gone
    and speaks again begins anew."""
    if known is None or known.state is NodeState.GONE:
        return told
    kept = {name: getattr(known, name) for name in EC2_SAYS if not getattr(told, name)}
    return told.model_copy(update={**kept, "first_seen_at": known.first_seen_at or told.first_seen_at})


def as_announced(node: Node, notice: Notice) -> Node:
    """The node once AWS has announced that. What its agent knows already stays; a recommendation changes nothing of a
    node."""
    known = node.notice is not None and notice.repeats(node.notice)
    if known or notice.kind is NoticeKind.REBALANCE or node.state is NodeState.GONE:
        return node
    return node.model_copy(update={"state": NodeState.NOTICED, "notice": notice})


def as_seen(node: Node, found: InstanceState, now: datetime) -> Node:
    """The node with what EC2 says of its instance at `now`."""
    changes: dict[str, object] = {}
    if found.launched_at is not None:
        changes |= {"launched_at": found.launched_at, "pay_type": found.pay_type}
    if found.ending and node.ended_at is None:
        changes["ended_at"] = found.ended_at or _ended_by_then(node, now)
    if found.gone:
        changes["state"] = NodeState.GONE
    if found.ending and not node.ended_by:
        # EC2 forgets an instance, and may not say why it went: one that was announced to go was taken back.
        announced = node.notice is not None and node.notice.deadline is not None
        changes["ended_by"] = found.ended_by or ("aws" if announced and found.gone else "")
    return node.model_copy(update=changes)


def _ended_by_then(node: Node, now: datetime) -> datetime:
    """It was found ended: at the deadline of its notice if that has just passed, else at the latest now."""
    deadline = node.notice.deadline if node.notice else None
    return deadline if deadline and deadline <= now <= deadline + JUST_PASSED else now
