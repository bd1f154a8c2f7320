"""Changing the configuration, whichever endpoint asks for it. A change is checked, stored with its author, and told to
those who must know of it.

The configuration is read, checked and written in one transaction. Each version has a number. When two writers want the
same number, one gets it and the other is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from api.auth.binding import check_binding
from api.auth.lock_out import check_pool, refuse_lock_out
from api.configuration.mmbatch_keys import why_without_effect
from api.configuration.models import (
    SECTIONS,
    Configuration,
    ConfigurationChanged,
    FieldChangeView,
    Overridden,
    Section,
    WithoutEffectView,
)
from api.configuration.server_section import Problem, log_notes, log_sources, restart_notes, serving, validate_server
from api.serving.errors import OutOfDate
from api.workflows import JobWorkflows
from perdure.domain.configuration import CognitoConfiguration, SystemConfiguration, differences
from perdure.domain.errors import ConfigurationInvalid, TemporalUnavailable
from perdure.records.access.tokens import admin_token_exists
from perdure.records.nodes.open_nodes import open_node_ids
from perdure.records.schema.database import reading, writing
from perdure.records.settings.configuration import ConfigurationChange, newest_configuration, save_configuration
from perdure.settings import ApiSettings

log = structlog.get_logger(__name__)
Transform = Callable[[SystemConfiguration], SystemConfiguration]
Place = Callable[[str], tuple[str, ...]]
"""Where a field stands in a request."""

_TRIES = 5
"""Of a change without If-Match, when others change the configuration at the same time."""


def of_body(field: str) -> tuple[str, ...]:
    """The body is the section itself."""
    return ("body", field)


@dataclass(frozen=True)
class Wish:
    """Who wants what: `transform` makes the new configuration of the one that holds, and raises what is wrong.
    `sections` are those the request is about, changed or not: who must know of them is told again. `place` says where
    a field of the server section stands in the request, for errors."""

    by: str
    transform: Transform
    sections: frozenset[Section]
    if_match: str | None = None
    place: Place = of_body
    proven: CognitoConfiguration | None = None
    """The sign-in with which an admin has shown to get in: by an ID token, or by a trial."""


def etag(number: int) -> str:
    """The ETag of a version."""
    return f'"{number}"'


def merged(section: Section, stored: SystemConfiguration, changes: Mapping[str, Any], at: tuple[str, ...]) -> Any:
    """The section with some of its fields changed; None gives a field its default. RequestValidationError."""
    model = SECTIONS[section]
    default = model().model_dump()
    values = {name: default[name] if value is None else value for name, value in changes.items()}
    try:
        return model.model_validate(getattr(stored, section).model_dump() | values)
    except ValidationError as problem:
        raise RequestValidationError(
            [{**error, "loc": (*at, *error["loc"])} for error in problem.errors(include_url=False)]
        ) from problem


async def change(database: Engine, workflows: JobWorkflows, settings: ApiSettings, wish: Wish) -> ConfigurationChanged:
    """Store the wish and tell running jobs and nodes. OutOfDate, RequestValidationError: nothing was changed."""
    await check_pool(database, wish.transform)
    before, after = await run_in_threadpool(store, database, settings, wish)
    changes = differences(before.configuration, after.configuration)
    changed = {each.field.split(".")[0] for each in changes}
    warnings: list[str] = []
    jobs_told = nodes_told = None
    if "checkpoint" in changed | wish.sections:
        jobs_told = await _tell(workflows.configuration_changed, "running jobs", warnings)
    if "log" in changed | wish.sections:
        nodes = await run_in_threadpool(_open_nodes, database)
        nodes_told = await _tell(partial(workflows.log_settings_changed, nodes), "nodes", warnings)
    return ConfigurationChanged(
        number=after.number,
        changes=[FieldChangeView.model_validate(each) for each in changes],
        notes=notes_of(settings, before.configuration, after.configuration, changed),
        warnings=warnings,
        jobs_told=jobs_told,
        nodes_told=nodes_told,
        configuration=shown(after, settings),
    )


def store(database: Engine, settings: ApiSettings, wish: Wish) -> tuple[ConfigurationChange, ConfigurationChange]:
    """What held before and what holds now; the same if nothing is different. OutOfDate, RequestValidationError."""
    for _ in range(_TRIES):
        try:
            with writing(database) as session:
                before = newest_configuration(session)
                if wish.if_match is not None and not _matches(wish.if_match, before.number):
                    raise OutOfDate("The configuration was changed since you read it; read it again.")
                wanted = wish.transform(before.configuration)
                if wanted == before.configuration:
                    return before, before
                _refuse_unservable(session, settings, before.configuration, wanted, wish.place)
                refuse_lock_out(session, settings, before.configuration.cognito, wanted.cognito, wish.proven)
                now = datetime.now(UTC)
                return before, save_configuration(session, wanted, at=now, by=wish.by, after=before.number)
        except IntegrityError:
            log.info("somebody else changed the configuration at the same time; looked at again")
    raise OutOfDate("Others change the configuration at the same time; try again.")


def _open_nodes(database: Engine) -> list[str]:
    with reading(database) as session:
        return open_node_ids(session)


def shown(version: ConfigurationChange, settings: ApiSettings) -> Configuration:
    """A version as people see it."""
    stored = version.configuration
    effective, won = serving(settings, stored.server)
    overridden = [
        Overridden(field=f"server.{name}", variable=variable, value=getattr(effective, name))
        for name, variable in won.items()
    ]
    overridden += [
        Overridden(field=f"log.{name}", variable=variable, value=settings.log_level.lower())
        for name, variable in log_sources(settings).items()
    ]
    return Configuration(
        number=version.number,
        changed_at=version.at if version.number else None,
        changed_by=version.by if version.number else None,
        checkpoint=stored.checkpoint,
        job_volume=stored.job_volume,
        store=stored.store,
        log=stored.log,
        server=stored.server,
        cognito=stored.cognito,
        overridden=overridden,
        without_effect=[
            WithoutEffectView(name=name, value=value, why=why_without_effect(name))
            for name, value in sorted(stored.without_effect.items())
        ],
    )


def _matches(if_match: str, number: int) -> bool:
    """Whether one of the tags in an If-Match header is this version's."""
    tags = [tag.strip() for tag in if_match.split(",")]
    return "*" in tags or etag(number) in tags


def unservable(
    session: Session, settings: ApiSettings, before: SystemConfiguration, wanted: SystemConfiguration
) -> list[Problem]:
    """Why a server could not start with the server section that is wanted: it would be noticed at the worst time."""
    if wanted.server == before.server:
        return []
    # What it serves with now: what was stored since then takes a restart.
    now = before.server.model_copy(update={"address": settings.api_host, "port": settings.api_port})
    problems = validate_server(wanted.server, now)
    if (wanted.server.address, wanted.server.cert_file) != (before.server.address, before.server.cert_file):
        can_sign_in = wanted.cognito.enabled or admin_token_exists(session, datetime.now(UTC))
        try:
            check_binding(serving(settings, wanted.server)[0], can_sign_in)
        except ConfigurationInvalid as problem:
            problems.append(Problem(field="address", message=str(problem)))
    return problems


def _refuse_unservable(
    session: Session,
    settings: ApiSettings,
    before: SystemConfiguration,
    wanted: SystemConfiguration,
    place: Callable[[str], tuple[str, ...]],
) -> None:
    problems = unservable(session, settings, before, wanted)
    if problems:
        raise RequestValidationError(
            [{"type": "value_error", "loc": place(each.field), "msg": each.message} for each in problems]
        )


async def _tell(tell: Callable[[], Any], whom: str, warnings: list[str]) -> int | None:
    try:
        told: int = await tell()
    except TemporalUnavailable as problem:
        log.warning("not everybody was told of the new configuration", whom=whom, problem=str(problem))
        warnings.append(f"Stored, but not all {whom} could be told, so send it again later: {problem}")
        return None
    return told


def notes_of(
    settings: ApiSettings, before: SystemConfiguration, after: SystemConfiguration, changed: set[str]
) -> list[str]:
    """What takes effect when, a sentence each, for a change of these sections."""
    notes: list[str] = []
    if "checkpoint" in changed:
        notes.append("Running jobs go by it from now on; what a job's own environment says still wins for that job.")
    if "job_volume" in changed:
        notes.append("It holds for volumes made from now on; those that exist stay as they are.")
    if "store" in changed:
        notes.append("It holds for jobs that begin from now on; those that have begun stay with their store.")
        if after.store.kind != "none" and after.job_volume.enabled:
            notes.append("Jobs use it once job_volume.enabled is off; until then each has a managed volume.")
    if "log" in changed:
        notes += log_notes(after.log, log_sources(settings))
    if before.cognito.enabled != after.cognito.enabled:
        notes.append(
            "Everybody is asked to sign in within a second, on this machine too."
            if after.cognito.enabled
            else "Sign-in with Cognito ends within a second; sessions open nothing any more."
        )
    if "server" in changed:
        notes += restart_notes(before.server, after.server, first_start=settings.bootstrap_dir is not None)
        _, won = serving(settings, after.server)
        notes += [
            f"{variable} is set in this server's environment and wins over server.{name}."
            for name, variable in won.items()
            if getattr(before.server, name) != getattr(after.server, name)
        ]
    return notes
