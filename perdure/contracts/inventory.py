"""What the `node/<instance>` workflow hears, always by signal-with-start: it ends when nothing is left to do. Agents
signal on changes, never on ticks; the reconciler signals `instance_seen` (an InstanceState) where EC2 says something
new; the control worker signals `announced` (a Notice) on an event of AWS; the API signals `log_settings_changed`,
without arguments."""

from __future__ import annotations

from datetime import datetime

from perdure.domain.nodes import Node
from perdure.domain.values import Frozen


class NodeWatchInput(Frozen):
    """Start of the workflow; `node`: as the records have it, if whoever starts it knows that."""

    instance_id: str
    node: Node | None = None


class NodeChanged(Frozen):
    """Signal `node_changed`: the node as its agent sees it now (its notice included).

    `wants_log_settings`: the agent has just started and does not know how to log.
    """

    node: Node
    at: datetime
    wants_log_settings: bool = False
