"""Keeps the log bundles that nodes send by themselves. SQLAlchemy blocks, so each call runs in a thread."""

from __future__ import annotations

import asyncio

from sqlalchemy import Engine
from temporalio import activity

from perdure.contracts.logs import LARGEST_KEPT, KeepLogs, LogKeepingActivities
from perdure.records.jobs import log_bundles
from perdure.records.schema.database import writing


class LogRecords(LogKeepingActivities):
    """Stores bundles."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @activity.defn(name="keep_logs")
    async def keep_logs(self, bundle: KeepLogs) -> None:
        """Idempotent by key. One that is larger than a node may send is not stored."""
        if len(bundle.content) > LARGEST_KEPT:
            activity.logger.warning("a bundle of %d bytes is not kept", len(bundle.content))
            return
        await asyncio.to_thread(self._keep, bundle)

    def _keep(self, bundle: KeepLogs) -> None:
        with writing(self._engine) as session:
            log_bundles.keep(
                session,
                log_bundles.KeptBundle(
                    key=bundle.key,
                    job_id=bundle.job_id,
                    instance_id=bundle.instance_id,
                    epoch=bundle.epoch,
                    kind=bundle.kind.value,
                    at=bundle.at,
                    size=len(bundle.content),
                ),
                bundle.content,
            )
