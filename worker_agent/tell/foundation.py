"""What all parts of the agent stand on: the node, its jobs, and the two ways in which the agent tells of them."""

from __future__ import annotations

from dataclasses import dataclass

from worker_agent.container.protected_jobs import ProtectedJobs
from worker_agent.node.this_node import ThisNode
from worker_agent.tell.reporting import Reporter
from worker_agent.tell.spool import Spool


@dataclass(frozen=True)
class Foundation:
    """Made once, before every part that uses it."""

    node: ThisNode
    jobs: ProtectedJobs
    spool: Spool
    reporter: Reporter
