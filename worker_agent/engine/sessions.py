"""Sessions that CRIU cannot build anew (criu/pstree.c, prepare_pstree_ids, 4.2): the dump says nothing.

A process gets its session from its parent when it is made. At a restore CRIU makes the tree of processes again, with
helpers in the place of leaders that are gone, but only for children of the first process. Of the others an ancestor
must be the leader, and no ancestor can be born in two sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class _Node:
    pid: int
    session: int
    parent: _Node | None = None
    born: int = 0


def lost_session(tree: Mapping[int, tuple[int, int]], root: int) -> int | None:
    """The process whose session CRIU cannot restore, if there is one. `tree`: the parent and the session of each
    process, all as the container numbers them; what is not below `root` is left out."""
    nodes = {pid: _Node(pid, session) for pid, (_, session) in tree.items()}
    for pid, (parent, _) in tree.items():
        nodes[pid].parent = nodes.get(parent) if pid != root else None
    top = nodes.get(root)
    if top is None:
        return None
    below = [node for node in nodes.values() if _is_below(node, top)]
    helpers: dict[int, _Node] = {}
    for node in below:
        if node.parent is top and node.session not in (top.session, node.pid):
            leader = nodes.get(node.session)
            made = _Node(0, node.session, leader) if leader else _Node(node.session, node.session, top)
            node.parent = helpers.setdefault(node.session, made)
    for node in below:
        if node.session in (0, node.pid) or node.parent is None or node.parent.session == node.session:
            continue
        above: _Node | None = node.parent
        while above is not None and above.pid != node.session:
            if above.born not in (0, node.session):
                return node.pid
            above.born = node.session
            above = above.parent
        if above is None:
            return node.pid
    return None


def _is_below(node: _Node, top: _Node) -> bool:
    steps: _Node | None = node.parent
    while steps is not None and steps is not top:
        steps = steps.parent
    return steps is top
