"""What EBS is like just now: its rates, the faults that were asked for, and which calls were throttled. Seeded.

`perdure local fault` and /_local/ebs change it while the cloud runs. Guards and states ask it; nothing here waits.
Callers hold the cloud's lock.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from localcloud.aws.cloud_config import Timing
from localcloud.aws.ebs_rates import EbsRates, profiles
from localcloud.errors import AwsError, Refused

MUTATIONS = frozenset(
    {
        "AttachVolume",
        "CreateSnapshot",
        "CopySnapshot",
        "CreateTags",
        "CreateVolume",
        "DeleteSnapshot",
        "DeleteTags",
        "DeleteVolume",
        "DetachVolume",
        "ModifyVolume",
    }
)
"""Calls that change volumes and snapshots. Those that start and end instances are the cloud's own here, too: they are
never throttled."""


class FaultKind(StrEnum):
    """What can go wrong."""

    STUCK_ATTACHING = "stuck-attaching"
    STUCK_DETACHING = "stuck-detaching"
    SNAPSHOT_ERROR = "snapshot-error"
    VOLUME_ERROR = "volume-error"
    """A new volume ends up as `error`."""
    NO_VOLUMES = "no-volumes"
    """CreateVolume is refused: InsufficientVolumeCapacity."""
    THROTTLE = "throttle"
    """Calls of `action` (every action, if none is named) are refused: RequestLimitExceeded."""


class Fault(BaseModel):
    """One fault. It strikes `times` times (0: until it is cleared), each time with that `chance`, and what is stuck
    stays so for `seconds` (None: until it is cleared, or taken by force)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    volume_id: str = ""
    action: str = ""
    times: int = Field(1, ge=0)
    chance: float = Field(1.0, gt=0, le=1)
    seconds: float | None = Field(None, ge=0)


class EbsRequest(BaseModel):
    """A change of the rates: a named profile, some of its figures changed, and a seed for all that is drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str | None = None
    seed: int | None = None
    rates: dict[str, float] = Field(default_factory=dict)


class TokenBucket:
    """EC2's way of limiting calls: so many at once, so many more a second."""

    def __init__(self, per_second: float, burst: float, now: Callable[[], float]) -> None:
        self._per_second, self._burst, self._now = per_second, burst, now
        self._tokens, self._at = burst, now()

    def take(self) -> bool:
        """Is there a token? It is used up then."""
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class EbsConditions:
    """Rates and faults of one cloud."""

    def __init__(self, timing: Timing, now: Callable[[], float] = time.monotonic) -> None:
        self._profiles = profiles(timing)
        self._now = now
        self._numbers = itertools.count(1)
        self._faults: dict[str, tuple[Fault, int]] = {}
        self.profile, self.seed = "fast", 0
        self.rates = self._profiles["fast"]
        self._random = random.Random(0)
        self._buckets: dict[str, TokenBucket] = {}
        self.calls: Counter[str] = Counter()
        self.throttled: Counter[str] = Counter()

    def change(self, request: EbsRequest) -> None:
        """Go by other rates from now on; what has begun goes on as it began. Refused 400."""
        name = request.profile or self.profile
        if name not in self._profiles:
            raise Refused(400, f"There is no profile {name!r}; there are {', '.join(self._profiles)}.")
        base = self._profiles[name] if request.profile else self.rates
        unknown = set(request.rates) - set(EbsRates.model_fields)
        if unknown:
            raise Refused(400, f"There is no rate {min(unknown)!r}; there are {', '.join(EbsRates.model_fields)}.")
        try:
            self.rates = EbsRates.model_validate(base.model_dump() | request.rates)
        except ValueError as problem:
            raise Refused(400, f"These rates make no sense: {problem}") from problem
        self.profile = name
        if request.seed is not None:
            self.seed = request.seed
            self._random = random.Random(request.seed)
        self._buckets.clear()

    def delay(self, seconds: float) -> float:
        """That figure of the rates, with its spread."""
        return seconds * (1 + self.rates.spread * self._random.uniform(-1, 1))

    def snapshot_seconds(self, moved_bytes: int) -> float:
        """How long a snapshot of so many changed bytes takes."""
        rate = self.rates.snapshot_mib_per_second
        return self.delay(self.rates.snapshot + (moved_bytes / 2**20 / rate if rate else 0.0))

    def check(self, action: str) -> None:
        """AwsError RequestLimitExceeded when that call is one too many."""
        if action not in MUTATIONS and not action.startswith("Describe"):
            return
        self.calls[action] += 1
        if self.strikes(FaultKind.THROTTLE, action=action) or not self._bucket(action):
            self.throttled[action] += 1
            raise AwsError("RequestLimitExceeded", "Request limit exceeded.", 503)

    def _bucket(self, action: str) -> bool:
        changes = action in MUTATIONS
        rate = self.rates.mutations_per_second if changes else self.rates.reads_per_second
        if not rate:
            return True
        burst = self.rates.mutations_burst if changes else self.rates.reads_burst
        return self._buckets.setdefault(action, TokenBucket(rate, burst, self._now)).take()

    def add(self, fault: Fault) -> str:
        """Have something go wrong; returns the fault's id."""
        fault_id = f"fault-{next(self._numbers)}"
        self._faults[fault_id] = (fault, 0)
        return fault_id

    def clear(self) -> None:
        """Nothing goes wrong from now on, and what was stuck goes on."""
        self._faults.clear()

    def strikes(self, kind: FaultKind, volume_id: str = "", action: str = "") -> Fault | None:
        """The fault that strikes here, if one does: it is counted."""
        for fault_id, (fault, struck) in self._faults.items():
            meant = fault.kind is kind and fault.volume_id in {"", volume_id} and fault.action in {"", action}
            if meant and (not fault.times or struck < fault.times) and self._random.random() < fault.chance:
                self._faults[fault_id] = (fault, struck + 1)
                return fault
        return None

    def describe(self) -> dict[str, Any]:
        """As the control endpoint shows it."""
        return {
            "profile": self.profile,
            "seed": self.seed,
            "rates": self.rates.model_dump(),
            "faults": [
                {"id": fault_id, **fault.model_dump(mode="json"), "struck": struck}
                for fault_id, (fault, struck) in self._faults.items()
            ],
            "calls": dict(self.calls),
            "throttled": dict(self.throttled),
        }
