"""The database, as workflows see it. SQLAlchemy blocks, so each call runs in a thread."""

from __future__ import annotations

import asyncio

from sqlalchemy import Engine
from temporalio import activity

from perdure.contracts.control import JobRecord, RecordActivities
from perdure.contracts.node import LogSettings
from perdure.domain.configuration import JobConfiguration
from perdure.domain.nodes import Node
from perdure.records.jobs import jobs
from perdure.records.nodes import nodes
from perdure.records.schema.database import reading, writing
from perdure.records.settings import configuration


class Records(RecordActivities):
    """Writes what workflows know; reads the configuration."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @activity.defn(name="record_job")
    async def record_job(self, record: JobRecord) -> None:
        """Idempotent by (job_id, revision): an older revision changes nothing; events are inserted once."""
        await asyncio.to_thread(self._record_job, record)

    def _record_job(self, record: JobRecord) -> None:
        with writing(self._engine) as session:
            jobs.record_job(session, record.job, record.events, record.revision, record.store_uses)

    @activity.defn(name="record_node")
    async def record_node(self, node: Node) -> None:
        """Idempotent by (instance_id, changed_at): an older message changes nothing."""
        await asyncio.to_thread(self._record_node, node)

    def _record_node(self, node: Node) -> None:
        with writing(self._engine) as session:
            nodes.record_node(session, node)

    @activity.defn(name="load_configuration")
    async def load_configuration(self) -> JobConfiguration:
        """What is stored, or the defaults: the sections for jobs, nothing of the server's."""
        return await asyncio.to_thread(self._load_configuration)

    def _load_configuration(self) -> JobConfiguration:
        with reading(self._engine) as session:
            stored = configuration.current_configuration(session)
        # Not the value itself: its class has the server's sections too, and histories would hold them.
        return JobConfiguration(**{name: getattr(stored, name) for name in JobConfiguration.model_fields})

    @activity.defn(name="load_log_settings")
    async def load_log_settings(self) -> LogSettings:
        """What is stored, or the defaults."""
        return await asyncio.to_thread(self._load_log_settings)

    def _load_log_settings(self) -> LogSettings:
        with reading(self._engine) as session:
            newest = configuration.newest_configuration(session)
        return LogSettings(number=newest.number, section=newest.configuration.log)
