"""Forgets old records, a bounded piece per transaction, so that nobody who writes waits for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Engine
from sqlmodel import Session
from temporalio import activity

from perdure.contracts.retention import ForgetOldRecords, ForgottenRecords, RetentionActivities
from perdure.domain.configuration import ServerConfiguration
from perdure.records.jobs import retention
from perdure.records.schema.database import reading, writing
from perdure.records.settings.configuration import current_configuration

Piece = Callable[[Session, ServerConfiguration, datetime], int]


class OldRecords(RetentionActivities):
    """Works on one database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @activity.defn(name="forget_old_records")
    async def forget_old_records(self, request: ForgetOldRecords) -> ForgottenRecords:
        """By the server section of the configuration as it is. Key: `now`; what is gone is not counted again."""
        kept = await asyncio.to_thread(self._kept)
        return ForgottenRecords(
            jobs=await self._all(retention.retire_jobs, kept, request.now),
            nodes=await self._all(retention.retire_nodes, kept, request.now),
            lines=await self._all(retention.forget_old_lines, kept, request.now),
        )

    def _kept(self) -> ServerConfiguration:
        with reading(self._engine) as session:
            return current_configuration(session).server

    async def _all(self, piece: Piece, kept: ServerConfiguration, now: datetime) -> int:
        gone = 0
        while some := await asyncio.to_thread(self._one, piece, kept, now):
            gone += some
            activity.heartbeat(gone)
        return gone

    def _one(self, piece: Piece, kept: ServerConfiguration, now: datetime) -> int:
        with writing(self._engine) as session:
            return piece(session, kept, now)
