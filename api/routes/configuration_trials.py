"""The configuration before it is changed: would this be taken, and would people get in?"""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Body, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import JsonValue
from sqlalchemy import Engine

from api.auth.principals import Role
from api.auth.rules import only_asks
from api.auth.sign_in_responses import ChallengeView
from api.auth.trials import Trial, try_sign_in
from api.auth.tries import Tries
from api.configuration.changes import merged
from api.configuration.checks import checked
from api.configuration.models import CHANGES, ConfigurationChecked, Section, SignInTrial, SignInTried
from api.dependencies import Asking, Database, Settings, SignInProofs
from perdure.domain.configuration import CognitoConfiguration, SystemConfiguration
from perdure.domain.errors import CloudUnavailable, ConfigurationInvalid, NotSignedIn, PoolMisconfigured
from perdure.records.schema.database import reading
from perdure.records.settings.configuration import current_configuration

router = APIRouter(prefix="/configuration", tags=["configuration"])


@router.post("/check", summary="Would this change be taken?")
@only_asks
async def check(
    database: Database,
    settings: Settings,
    asking: Asking,
    proofs: SignInProofs,
    wanted: Annotated[
        dict[Section, dict[str, JsonValue]],
        Body(
            description="Sections, each with the fields that are to change, as PATCH takes them.",
            examples=[{"checkpoint": {"interval_seconds": "10m"}}],
        ),
    ],
) -> ConfigurationChecked:
    """Everything that is wrong with it, or what it would change and when that would take effect. Changes nothing: a
    form asks while somebody types."""
    return await checked(database, settings, wanted, proofs.of(asking.name))


@router.post("/cognito/try", summary="Try a sign-in with a user pool that is not in force")
async def try_out(
    request: Request, database: Database, asking: Asking, proofs: SignInProofs, wanted: SignInTrial
) -> SignInTried:
    """Nobody is signed in by it. An admin who gets in has shown that turning this sign-in on locks nobody out."""
    stored = await run_in_threadpool(_stored, database)
    some = CHANGES["cognito"].model_validate(wanted.cognito | {"enabled": True}).model_dump(exclude_unset=True)
    cognito = cast(CognitoConfiguration, merged("cognito", stored, some, ("body", "cognito")))
    challenge = (wanted.challenge, wanted.challenge_session) if wanted.challenge and wanted.challenge_session else None
    try:
        with Tries(request, wanted.username):
            trial = await try_sign_in(cognito, wanted.username, wanted.secret, challenge)
    except (NotSignedIn, CloudUnavailable, PoolMisconfigured, ConfigurationInvalid) as problem:
        return SignInTried(problem=str(problem))
    proven = trial.role is Role.ADMIN
    if proven:
        proofs.note(asking.name, cognito)
    return _shown(trial, proven)


def _stored(database: Engine) -> SystemConfiguration:
    with reading(database) as session:
        return current_configuration(session)


def _shown(trial: Trial, proven: bool) -> SignInTried:
    if trial.challenge is not None:
        name, session, username = trial.challenge
        return SignInTried(challenge=ChallengeView(challenge=name, challenge_session=session, username=username))
    return SignInTried(username=trial.username, groups=list(trial.groups), role=trial.role, proven=proven)
