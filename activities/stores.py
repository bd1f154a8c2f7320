"""The end of a job's checkpoints in a store."""

from __future__ import annotations

import asyncio
from pathlib import Path

from temporalio import activity

from perdure.contracts.stores import ForgetCheckpoints, Forgotten, StoreActivities
from perdure.stores.opening import open_store, read_key
from perdure.stores.stored_checkpoints import StoredCheckpoints

_BEAT = 10.0
"""Seconds between heartbeats."""


class Stores(StoreActivities):
    """See perdure.contracts.stores. The server reaches a store as instances do: by the same path, or its own role."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file

    @activity.defn(name="forget_checkpoints")
    async def forget_checkpoints(self, request: ForgetCheckpoints) -> Forgotten:
        """Idempotent by job and store."""
        work = asyncio.create_task(asyncio.to_thread(self._forget, request))
        while not work.done():
            activity.heartbeat()
            await asyncio.wait([work], timeout=_BEAT)
        return work.result()

    def _forget(self, request: ForgetCheckpoints) -> Forgotten:
        store = open_store(request.store)
        try:
            stored = StoredCheckpoints(store, request.job_id, key=read_key(request.store, self._key_file))
            count = len(stored.numbers())
            stored.forget()
        finally:
            store.close()
        return Forgotten(checkpoints=count)
