"""A change of the configuration before it is asked for: what is wrong with it, what it would change, and when.

The same rules as of a change (changes.py), but all of their complaints at once and nothing stored. People see them
while they type.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import JsonValue, ValidationError
from sqlalchemy import Engine

from api.auth.lock_out import check_pool, refuse_lock_out
from api.configuration.changes import merged, notes_of, unservable
from api.configuration.models import (
    CHANGES,
    CertificateView,
    ConfigurationChecked,
    FieldChangeView,
    ProblemView,
    Section,
)
from api.configuration.volume_prices import volume_prices
from api.serving.tls import CertificateInvalid, check_certificate
from perdure.domain.configuration import CognitoConfiguration, ServerConfiguration, SystemConfiguration, differences
from perdure.domain.errors import CloudUnavailable, LockOut
from perdure.records.schema.database import reading
from perdure.records.settings.configuration import ConfigurationChange, newest_configuration
from perdure.settings import ApiSettings

Wanted = Mapping[Section, Mapping[str, JsonValue]]


async def checked(
    database: Engine, settings: ApiSettings, wanted: Wanted, proven: CognitoConfiguration | None
) -> ConfigurationChecked:
    """What a PATCH with `wanted` would answer now. Asks the user pool for its keys if sign-in is to be turned on."""
    answer, after = await run_in_threadpool(_checked, database, settings, wanted, proven)
    if after is not None and not answer.problems:
        try:
            await check_pool(database, lambda _: after)
        except CloudUnavailable as problem:
            answer.problems.append(ProblemView(field="cognito.user_pool_id", message=str(problem)))
    return answer


def _checked(
    database: Engine, settings: ApiSettings, wanted: Wanted, proven: CognitoConfiguration | None
) -> tuple[ConfigurationChecked, SystemConfiguration | None]:
    with reading(database) as session:
        before = newest_configuration(session)
        after, problems = _applied(before, wanted)
        if after is None:
            return ConfigurationChecked(number=before.number, changes=[], notes=[], problems=problems), None
        held = before.configuration
        problems += [
            ProblemView(field=f"server.{each.field}", message=each.message)
            for each in unservable(session, settings, held, after)
        ]
        try:
            refuse_lock_out(session, settings, held.cognito, after.cognito, proven)
        except LockOut as problem:
            problems.append(ProblemView(field="cognito.enabled", message=str(problem)))
        volumes = volume_prices(session, after) if "job_volume" in wanted else None
    changes = differences(held, after)
    return (
        ConfigurationChecked(
            number=before.number,
            changes=[FieldChangeView.model_validate(each) for each in changes],
            notes=notes_of(settings, held, after, {each.field.split(".")[0] for each in changes}),
            problems=problems,
            certificate=_certificate(after.server) if "server" in wanted else None,
            volumes=volumes,
        ),
        after,
    )


def _applied(before: ConfigurationChange, wanted: Wanted) -> tuple[SystemConfiguration | None, list[ProblemView]]:
    """The configuration with all of it merged in; None with every unusable value named."""
    values: dict[str, Any] = {}
    problems: list[ProblemView] = []
    for section, fields in wanted.items():
        try:
            some = CHANGES[section].model_validate(dict(fields)).model_dump(exclude_unset=True)
            values[section] = merged(section, before.configuration, some, ())
        except (ValidationError, RequestValidationError) as problem:
            for error in problem.errors():
                where = ".".join([section, *map(str, error["loc"][:1])])
                problems.append(ProblemView(field=where, message=error["msg"].removeprefix("Value error, ")))
    return (None, problems) if problems else (before.configuration.model_copy(update=values), [])


def _certificate(server: ServerConfiguration) -> CertificateView | None:
    """Of the pair that the section names; None: none, or it cannot be served, which is a problem already."""
    if server.cert_file is None or server.key_file is None:
        return None
    try:
        return CertificateView.model_validate(check_certificate(Path(server.cert_file), Path(server.key_file)))
    except CertificateInvalid:
        return None
