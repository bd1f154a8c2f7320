"""Keeps a process's logs as the database says: a small question every two seconds, which needs nobody to tell us."""

from __future__ import annotations

import asyncio

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from perdure.domain.configuration import LogConfiguration
from perdure.logs import apply_log_settings
from perdure.records.configuration import newest_configuration, newest_number
from perdure.records.database import reading

log = structlog.get_logger(__name__)
LOOK_SECONDS = 2.0


async def follow_log_settings(engine: Engine, *, level_fixed: bool) -> None:
    """Until cancelled. `level_fixed`: the environment named a level, which wins. A database that is away changes
    nothing: it is asked again."""
    known = -1
    while True:
        try:
            number, section = await asyncio.to_thread(_newer, engine, known)
        except SQLAlchemyError as problem:
            log.debug("the log settings could not be read; asked again", problem=str(problem)[:200])
        else:
            if section is not None:
                apply_log_settings(section, number, level_fixed=level_fixed)
            known = number
        await asyncio.sleep(LOOK_SECONDS)


def _newer(engine: Engine, known: int) -> tuple[int, LogConfiguration | None]:
    """The number that holds, and its log section if that number is not the known one."""
    with reading(engine) as session:
        if newest_number(session) == known:
            return known, None
        version = newest_configuration(session)
        return version.number, version.configuration.log
