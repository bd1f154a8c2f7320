"""Health: can this server reach what it needs?"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

import perdure
from api.auth.rules import anyone_may
from api.dependencies import Database, PerhapsAsking, Workflows
from api.wire.responses import Health, Part
from api.workflows import POLL_SECONDS, JobWorkflows
from perdure.domain.errors import TemporalUnavailable
from perdure.records.schema.database import reading
from perdure.records.settings.configuration import current_configuration

router = APIRouter(prefix="/health", tags=["health"])


@router.get(
    "",
    summary="Health of the server and of what it depends on",
    responses={503: {"model": Health, "description": "Something that Perdure needs is out of reach."}},
)
@anyone_may
async def health(response: Response, database: Database, workflows: Workflows, asking: PerhapsAsking) -> Health:
    """Whoever is not signed in hears whether it works, but not the version or what is wrong.

    A missing control worker is no 503: with docker-compose it is started when the API is well."""
    stored, temporal, control = await asyncio.gather(
        run_in_threadpool(_database, database), _temporal(workflows), _control_worker(workflows)
    )
    ok = stored.ok and temporal.ok
    if not ok:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    status = "ok" if ok else "broken"
    if asking is None:
        parts = {"database": stored, "temporal": temporal, "control_worker": control}
        return Health(status=status, version="", **{name: Part(ok=part.ok) for name, part in parts.items()})
    version = perdure.__version__
    return Health(status=status, version=version, database=stored, temporal=temporal, control_worker=control)


def _database(database: Engine) -> Part:
    try:
        with reading(database) as session:
            current_configuration(session)
    except SQLAlchemyError as problem:
        return Part(ok=False, message=f"The database does not answer: {str(problem)[:200]}")
    return Part(ok=True)


async def _temporal(workflows: JobWorkflows) -> Part:
    try:
        await workflows.reachable()
    except TemporalUnavailable as problem:
        return Part(ok=False, message=str(problem))
    return Part(ok=True)


async def _control_worker(workflows: JobWorkflows) -> Part:
    try:
        there = await workflows.control_workers()
    except TemporalUnavailable:
        return Part(ok=False, message="Whether there is a control worker, only Temporal knows.")
    if not there:
        return Part(
            ok=False,
            message=f"No control worker has asked Temporal for work for {POLL_SECONDS:g} s. Jobs run on, but none is"
            " protected, moved or recorded: look at its log, and start it (python -m activities).",
        )
    return Part(ok=True)
