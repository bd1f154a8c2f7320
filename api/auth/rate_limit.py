"""How often somebody may fail: sign-ins per address and user name, and lines in the audit log. In memory, bounded."""

from __future__ import annotations

import ipaddress
import math
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass

from perdure.domain.errors import TooManyTries

MOST_KEYS = 10_000
"""Addresses and names that are remembered; the one that was quiet longest is forgotten first."""
OTHERS = "others"
"""Stands for the addresses that there was no room to remember."""


@dataclass
class _Bucket:
    """Failures that count, at an instant; they fade evenly."""

    failures: float
    at: float


class FailedTries:
    """Failed sign-ins. After `burst` of them in a row, one more is looked at every `seconds_each`.

    Counted apart for the address (an IPv6 network of 64 bits counts as one) and for the user name, so that neither one
    name tried from everywhere nor many names tried from one place goes unnoticed. `now`: any steady clock, in seconds.
    """

    def __init__(self, burst: int = 10, seconds_each: float = 30.0, most_keys: int = MOST_KEYS) -> None:
        self._burst, self._seconds_each, self._most_keys = burst, seconds_each, most_keys
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, address: str, user: str, now: float) -> None:
        """Raises TooManyTries, with the seconds to wait, if this one has to wait. Call it before a password is looked
        at; whether the name exists must not matter."""
        with self._lock:
            wait = max(self._wait(key, now) for key in _keys(address, user))
        if wait > 0:
            seconds = math.ceil(wait)
            raise TooManyTries(f"Too many failed sign-ins; try again in {seconds} s.", seconds)

    def failed(self, address: str, user: str, now: float) -> None:
        """Count a failure."""
        with self._lock:
            for key in _keys(address, user):
                failures = self._left(key, now) + 1
                self._buckets[key] = _Bucket(min(failures, self._burst), now)
                self._buckets.move_to_end(key)
            while len(self._buckets) > self._most_keys:
                self._buckets.popitem(last=False)

    def succeeded(self, address: str, user: str) -> None:
        """The right password: that name starts anew. The address does not: its owner may try other names in between."""
        with self._lock:
            self._buckets.pop(_keys(address, user)[1], None)

    def __len__(self) -> int:
        return len(self._buckets)

    def _left(self, key: str, now: float) -> float:
        bucket = self._buckets.get(key)
        return max(bucket.failures - (now - bucket.at) / self._seconds_each, 0.0) if bucket else 0.0

    def _wait(self, key: str, now: float) -> float:
        return (self._left(key, now) - (self._burst - 1)) * self._seconds_each  # negative: none


class Refusals:
    """Which refused requests get a line of their own in the audit log: so many a minute from one address, and so many
    in all; the others are counted. A flood can neither fill the disk nor hide who else was refused."""

    def __init__(self, each: int = 30, all_together: int = 300, most_addresses: int = 1000) -> None:
        self._each, self._all, self._most = each, all_together, most_addresses
        self._minute = -1
        self._seen: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def admit(self, address: str, now: float) -> bool:
        """May this one have a line? Else it has been counted."""
        with self._lock:
            if int(now // 60) != self._minute:
                self._minute = int(now // 60)
                self._seen.clear()
            if self._seen.total() < self._all and self._seen[address] < self._each:
                self._seen[address] += 1
                return True
            known = address in self._counts or len(self._counts) < self._most
            self._counts[address if known else OTHERS] += 1
            return False

    def take_counts(self) -> dict[str, int]:
        """How many had no line since the last call, by address."""
        with self._lock:
            counts, self._counts = dict(self._counts), Counter()
            return counts


def _keys(address: str, user: str) -> tuple[str, str]:
    return f"address {_network(address)}", f"user {user.casefold()[:200]}"


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:60]
    if found.version == 6:
        mapped = found.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
    return str(found)
