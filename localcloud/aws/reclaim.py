"""How AWS takes a node away: a recommendation perhaps, a notice perhaps, then the power.

A real reclaim ends at its deadline. Here it ends early once nothing is left to save on the node: no container of a job
and no job volume; a demo that always waited two minutes would show nothing more.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from localcloud.aws.batch.engine import Engine
from localcloud.aws.batch.jobs import TERMINAL
from localcloud.aws.cloud_config import CloudConfig
from localcloud.aws.fleet import GONE, LAUNCHING, Fleet, Node
from localcloud.aws.volume_states import VolumeStates
from localcloud.errors import Refused

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
LONGEST_NOTICE = 3600.0


class ReclaimRequest(BaseModel):
    """What is asked for: a job's node, or a node. Times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_id: str | None = None
    node_id: str | None = None
    to_zone: str | None = None
    notice_seconds: float = Field(120.0, ge=0, le=LONGEST_NOTICE)
    no_notice: bool = False
    rebalance: bool = False
    rebalance_lead_seconds: float = Field(5.0, ge=0, le=LONGEST_NOTICE)
    wait: bool = False


@dataclass
class Reclaim:
    """One reclaim as it goes on. `steps` are (seconds since 1970, what)."""

    reclaim_id: str
    node: str
    jobs: list[str]
    steps: list[tuple[float, str]] = field(default_factory=list)
    deadline: float | None = None
    ended_early: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    def describe(self) -> dict[str, Any]:
        """As the control endpoint shows it."""
        return {
            "id": self.reclaim_id,
            "node": self.node,
            "jobs": self.jobs,
            "state": "done" if self.done.is_set() else "running",
            "ended_early": self.ended_early,
            "deadline": self.deadline,
            "steps": [{"at": at, "what": what} for at, what in self.steps],
        }


class Reclaims:
    """Starts reclaims, each on a thread of its own, and remembers them."""

    def __init__(
        self, lock: threading.RLock, config: CloudConfig, fleet: Fleet, engine: Engine, states: VolumeStates
    ) -> None:
        self._lock, self._config = lock, config
        self._fleet, self._engine, self._states = fleet, engine, states
        self._numbers = itertools.count(1)
        self._all: dict[str, Reclaim] = {}
        self._stopping = threading.Event()

    def close(self) -> None:
        """Give up: the stack goes down."""
        self._stopping.set()

    def get(self, reclaim_id: str) -> Reclaim:
        """Refused 404 when there never was such a one."""
        found = self._all.get(reclaim_id)
        if found is None:
            raise Refused(404, f"There is no reclaim {reclaim_id}.")
        return found

    def start(self, request: ReclaimRequest) -> Reclaim:
        """Begin. Refused when there is no such node or job, or nothing to take away."""
        if request.to_zone is not None and request.to_zone not in self._config.zones:
            raise Refused(400, f"There is no zone {request.to_zone}; there are {', '.join(self._config.zones)}.")
        with self._lock:
            node = self._find(request)
            if any(each.node == node.instance_id and not each.done.is_set() for each in self._all.values()):
                raise Refused(409, f"Node {node.instance_id} is being reclaimed already.")
            jobs = self._engine.containers_on(node.instance_id)
            reclaim = Reclaim(f"r-{next(self._numbers)}", node.instance_id, jobs)
            self._all[reclaim.reclaim_id] = reclaim
            self._engine.limit_capacity([request.to_zone] if request.to_zone else self._config.zones, jobs)
        threading.Thread(target=self._run, args=(reclaim, node, request), name=reclaim.reclaim_id).start()
        return reclaim

    def _find(self, request: ReclaimRequest) -> Node:
        if (request.job_id is None) == (request.node_id is None):
            raise Refused(400, "Say which job's node, or which node, is to be reclaimed: one of the two.")
        node_id = request.node_id or self._node_of_job(str(request.job_id))
        node = self._fleet.node(node_id)
        if node is None:
            raise Refused(404, f"There is no node {node_id}.")
        if node.state == GONE:
            raise Refused(409, f"Node {node_id} is gone already.")
        if node.state == LAUNCHING:
            raise Refused(409, f"Node {node_id} is still being launched.")
        return node

    def _node_of_job(self, job_id: str) -> str:
        job = self._engine.job(job_id)
        if job is None:
            raise Refused(404, f"There is no job {job_id}.")
        if job.status in TERMINAL:
            raise Refused(409, f"Job {job_id} has finished ({job.status}): there is no node to reclaim.")
        attempt = job.current
        if attempt is None:
            raise Refused(409, f"Job {job_id} is {job.status} and on no node now: wait until it runs.")
        return attempt.instance_id

    def _run(self, reclaim: Reclaim, node: Node, request: ReclaimRequest) -> None:
        try:
            self._warn(reclaim, node, request)
            if self._stopping.is_set():
                return
            self._fleet.end(node.instance_id)
            self._note(reclaim, "power lost")
            self._wait_until(lambda: node.ended)
            self._note(reclaim, "terminated, volumes released")
        except Exception:
            log.exception("%s of %s failed", reclaim.reclaim_id, node.instance_id)
        finally:
            reclaim.done.set()

    def _warn(self, reclaim: Reclaim, node: Node, request: ReclaimRequest) -> None:
        if request.rebalance:
            self._fleet.notice(node.instance_id)
            node.imds.recommend_rebalance(datetime.now(UTC))
            self._note(reclaim, "rebalance recommended")
            if self._saved_within(reclaim, node, request.rebalance_lead_seconds):
                return
        if request.no_notice:
            return
        self._fleet.notice(node.instance_id)
        reclaim.deadline = time.time() + request.notice_seconds
        node.imds.give_notice(datetime.fromtimestamp(reclaim.deadline, UTC))
        self._note(reclaim, "notice given")
        self._saved_within(reclaim, node, request.notice_seconds)

    def _saved_within(self, reclaim: Reclaim, node: Node, seconds: float) -> bool:
        """Wait `seconds`, less when nothing is left to save (but let the notice be seen). True when it was less."""
        begun = time.monotonic()
        shortest = min(seconds, self._config.timing.shortest_notice)

        def saved() -> bool:
            if time.monotonic() - begun < shortest:
                return False
            instance_id = node.instance_id
            return not self._engine.containers_on(instance_id) and not self._states.attached_to(instance_id)

        reclaim.ended_early = self._wait_until(saved, seconds)
        if reclaim.ended_early:
            self._note(reclaim, "handed over")
        return reclaim.ended_early

    def _wait_until(self, condition: Callable[[], bool], seconds: float = float("inf")) -> bool:
        deadline = time.monotonic() + seconds
        while not self._stopping.is_set():
            if condition():
                return True
            if time.monotonic() >= deadline:
                return False
            self._stopping.wait(min(LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
        return False

    def _note(self, reclaim: Reclaim, what: str) -> None:
        log.info("%s: %s", reclaim.node, what)
        with self._lock:
            reclaim.steps.append((time.time(), what))
