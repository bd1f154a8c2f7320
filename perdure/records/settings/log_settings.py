"""Keeps a process's logs as the database says: a small question every two seconds, which needs nobody to tell us."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from perdure.domain.configuration import LogConfiguration
from perdure.records.schema.database import reading
from perdure.records.settings.configuration import newest_configuration, newest_number

log = structlog.get_logger(__name__)
LOOK_SECONDS = 2.0


async def follow_log_settings(engine: Engine, apply: Callable[[LogConfiguration, int], None]) -> None:
    """Until cancelled: `apply` gets the log section and its number, at first and whenever they change. A database that
    is away changes nothing: it is asked again."""
    known, held = -1, None
    while True:
        try:
            number, section = await asyncio.to_thread(_newer, engine, known)
        except SQLAlchemyError as problem:
            log.debug("the log settings could not be read; asked again", problem=str(problem)[:200])
        else:
            if section is not None and section != held:
                apply(section, number)
                held = section
            known = number
        await asyncio.sleep(LOOK_SECONDS)


def _newer(engine: Engine, known: int) -> tuple[int, LogConfiguration | None]:
    """The number that holds, and its log section if that number is not the known one."""
    with reading(engine) as session:
        if newest_number(session) == known:
            return known, None
        version = newest_configuration(session)
        return version.number, version.configuration.log
