"""The control endpoints of the EBS plane:

GET  /_local/ebs                       rates, faults, calls by action, throttled ones
POST /_local/ebs                       ebs_conditions.EbsRequest: go by other rates
POST /_local/faults                    ebs_conditions.Fault: have something go wrong
POST /_local/faults/clear              nothing goes wrong any more
GET  /_local/snapshots/ID              what it moved, and how long that took; kept after its deletion
GET  /_local/snapshots?volume_id=ID    all of one volume, the oldest first
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from localcloud.aws.ebs_conditions import EbsConditions, EbsRequest, Fault
from localcloud.aws.volume_states import VolumeStates
from localcloud.errors import Refused

Body = dict[str, Any]
M = TypeVar("M", bound=BaseModel)


class EbsEndpoints:
    """`routes`: (method, path after /_local/, handler), as endpoints.Endpoints takes them."""

    def __init__(self, lock: threading.RLock, conditions: EbsConditions, states: VolumeStates) -> None:
        self._lock, self._conditions, self._states = lock, conditions, states
        self.routes: list[tuple[str, re.Pattern[str], Callable[..., tuple[int, Any]]]] = [
            ("GET", re.compile("ebs"), self._show),
            ("POST", re.compile("ebs"), self._change),
            ("POST", re.compile("faults"), self._add),
            ("POST", re.compile("faults/clear"), self._clear),
            ("GET", re.compile("snapshots"), self._snapshots),
            ("GET", re.compile("snapshots/([^/]+)"), self._snapshot),
        ]

    def _show(self, _: Body) -> tuple[int, Any]:
        with self._lock:
            return 200, self._conditions.describe()

    def _change(self, given: Body) -> tuple[int, Any]:
        with self._lock:
            self._conditions.change(_read(EbsRequest, given))
            return 200, self._conditions.describe()

    def _add(self, given: Body) -> tuple[int, Any]:
        with self._lock:
            return 201, {"id": self._conditions.add(_read(Fault, given))}

    def _clear(self, _: Body) -> tuple[int, Any]:
        with self._lock:
            self._conditions.clear()
            self._states.unstick()
            return 200, self._conditions.describe()

    def _snapshots(self, given: Body) -> tuple[int, Any]:
        wanted = given.get("volume_id")
        with self._lock:
            facts = list(self._states.snapshots.values())
        return 200, {"snapshots": [asdict(each) for each in facts if wanted in {None, each.volume_id}]}

    def _snapshot(self, _: Body, snapshot_id: str) -> tuple[int, Any]:
        with self._lock:
            facts = self._states.snapshots.get(snapshot_id)
        if facts is None:
            raise Refused(404, f"There is no snapshot {snapshot_id}.")
        return 200, asdict(facts)


def _read(kind: type[M], given: Body) -> M:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(400, f"{where}: {first['msg']} (got `{str(first['input'])[:80]}`).") from error
