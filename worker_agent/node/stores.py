"""The stores that this instance's jobs use: opened once, and one plan for the way there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from perdure.domain.configuration import StoreConfiguration
from perdure.domain.store_costs import StoreUse
from perdure.stores.bandwidth import Bandwidth
from perdure.stores.opening import open_store, read_key
from perdure.stores.patience import Patient
from perdure.stores.stored_checkpoints import StoredCheckpoints

T = TypeVar("T")
_THREADS = 64
"""Jobs of one instance that may be on their way to a store at the same time; transfers are the plan's to limit."""


class NodeStores:
    """One per agent."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file
        self._bandwidth = Bandwidth()
        self._stores: dict[str, Patient] = {}
        self._jobs: dict[str, tuple[StoreConfiguration, StoredCheckpoints]] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_THREADS, "store")

    def checkpoints(self, job_id: str, store: StoreConfiguration) -> StoredCheckpoints:
        """The job's checkpoints in that store; what is known of the store's chunks is kept until `forget`.
        ConfigurationInvalid, StoreRefused. Blocks at the first call."""
        with self._lock:
            known = self._jobs.get(job_id)
            if known is None or known[0] != store:
                key = read_key(store, self._key_file)
                name = store.model_dump_json()
                if name not in self._stores:
                    self._stores[name] = open_store(store)
                known = store, StoredCheckpoints(self._stores[name], job_id, key=key, bandwidth=self._bandwidth)
                self._jobs[job_id] = known
            return known[1]

    def forget(self, job_id: str) -> None:
        """No container of the job is here any more."""
        with self._lock:
            self._jobs.pop(job_id, None)

    def use(self, job_id: str, use_id: str, at: datetime) -> StoreUse | None:
        """What was asked of the job's store since the last call; None if it has not been opened."""
        with self._lock:
            known = self._jobs.get(job_id)
        return known[1].use(use_id, at) if known is not None else None

    async def run(self, work: Callable[[], T]) -> T:
        """Blocking work on a store, in a thread. It goes on when the waiting is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
