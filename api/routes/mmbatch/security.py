"""MMBatch's Cognito endpoints: on, shown, off. Its form asks for AWS keys; they are neither needed, used nor kept."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from sqlmodel import Session

from api.auth.lock_out import proves_admin
from api.auth.sessions import sign_in_of
from api.configuration.changes import Wish, change
from api.dependencies import Asking, Database, Settings, Workflows
from api.serving.errors import described
from api.serving.reading import reads
from perdure.domain.configuration import CognitoConfiguration, SystemConfiguration
from perdure.records.settings.configuration import current_configuration

router = APIRouter(prefix="/security/cognito", tags=["mmbatch"])

_KEYS = ("accessKey", "secretKey", "token")
_REFUSALS = described(HTTPStatus.CONFLICT)


def _split(value: object) -> object:
    """Lists may come as text with commas, as its other endpoints take them."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Groups = Annotated[list[str], BeforeValidator(_split, json_schema_input_type=list[str] | str)]
AwsKey = Annotated[str | None, Field(max_length=4096, description="Ignored: no AWS keys are needed.")]


class MMBatchCognito(BaseModel):
    """MMBatch's form, and what we need besides."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [
                {"region": "us-east-1", "userPoolID": "us-east-1_aB3", "clientID": "4a", "adminGroups": ["admin"]}
            ]
        },
    )

    region: str = Field(examples=["us-east-1"])
    userPoolID: str = Field(examples=["us-east-1_aB3"])
    clientID: str = Field(description="An app client without a secret.", examples=["4a"])
    identityPoolID: str = Field("", description="Accepted; without effect.")
    adminGroups: Groups = Field(default_factory=lambda: ["admin"], description="Members may change things.")
    viewerGroups: Groups = Field(default_factory=list, description="Members may read; none: everyone of the pool.")
    domain: str = Field("", description="Base URL of the hosted page; empty: by password only.")
    accessKey: AwsKey = None
    secretKey: AwsKey = None
    token: AwsKey = None
    idToken: str | None = Field(
        None,
        max_length=16384,
        description="ID token of somebody in an admin group of that pool: proof that turning it on locks nobody out."
        " Not needed while there is an admin API token.",
    )


class MMBatchCognitoView(BaseModel):
    """Cognito as it is set up."""

    enabled: bool
    region: str
    userPoolID: str
    clientID: str
    identityPoolID: str
    adminGroups: list[str]
    viewerGroups: list[str] = Field(description="Perdure's own: members may read; none: everyone of the pool.")
    domain: str = Field(description="Perdure's own: base URL of the hosted page.")
    notes: list[str] = Field(default_factory=list, description="What was ignored, and what comes next.")


@router.get("", summary="MMBatch: how Cognito is set up")
@reads
def read(session: Session) -> MMBatchCognitoView:
    """Nothing of it is secret."""
    return _view(current_configuration(session).cognito)


@router.put("", summary="MMBatch: turn sign-in with Cognito on", responses=_REFUSALS)
async def turn_on(
    request: Request,
    database: Database,
    workflows: Workflows,
    settings: Settings,
    asking: Asking,
    wanted: MMBatchCognito,
) -> MMBatchCognitoView:
    """Refused unless the pool's keys can be had, and an admin can get in afterwards: show an ID token, or have an API
    token. It holds within a second, without a restart."""
    cognito = _configuration(wanted)
    if wanted.idToken:
        await proves_admin(cognito, wanted.idToken)
    wish = Wish(
        asking.name, lambda old: _with(old, cognito), frozenset({"cognito"}), proven=cognito if wanted.idToken else None
    )
    await change(database, workflows, settings, wish)
    sign_in_of(request).forget()
    notes = ["Sign-in is on; people sign in at /sign-in."]
    if any(getattr(wanted, name) for name in _KEYS):
        notes.append("accessKey, secretKey and token were ignored and not kept: no AWS keys are needed. Revoke them.")
    if wanted.identityPoolID:
        notes.append("identityPoolID has no effect: a sign-in is never traded for AWS credentials.")
    return _view(cognito, notes)


@router.delete("", summary="MMBatch: turn sign-in with Cognito off", responses=_REFUSALS)
async def turn_off(
    request: Request, database: Database, workflows: Workflows, settings: Settings, asking: Asking
) -> MMBatchCognitoView:
    """Refused on a server that others can reach unless there is an admin API token. The pool stays in the
    configuration, so that it can be turned on again."""

    def transform(old: SystemConfiguration) -> SystemConfiguration:
        return _with(old, old.cognito.model_copy(update={"enabled": False}))

    changed = await change(database, workflows, settings, Wish(asking.name, transform, frozenset({"cognito"})))
    sign_in_of(request).forget()
    return _view(changed.configuration.cognito, ["Sign-in with Cognito is off; sessions open nothing any more."])


def _configuration(wanted: MMBatchCognito) -> CognitoConfiguration:
    """RequestValidationError by their names."""
    names = {"user_pool_id": "userPoolID", "client_id": "clientID", "identity_pool_id": "identityPoolID"}
    names |= {"admin_groups": "adminGroups", "viewer_groups": "viewerGroups"}
    values: dict[str, Any] = {
        "enabled": True,
        "region": wanted.region,
        "user_pool_id": wanted.userPoolID,
        "client_id": wanted.clientID,
        "domain": wanted.domain,
        "identity_pool_id": wanted.identityPoolID,
        "admin_groups": wanted.adminGroups,
        "viewer_groups": wanted.viewerGroups,
    }
    try:
        return CognitoConfiguration.model_validate(values)
    except ValidationError as problem:
        raise RequestValidationError(
            [
                {**error, "loc": ("body", *(names.get(str(part), part) for part in error["loc"]))}
                for error in problem.errors(include_url=False)
            ]
        ) from problem


def _with(old: SystemConfiguration, cognito: CognitoConfiguration) -> SystemConfiguration:
    return old.model_copy(update={"cognito": cognito})


def _view(cognito: CognitoConfiguration, notes: list[str] | None = None) -> MMBatchCognitoView:
    return MMBatchCognitoView(
        enabled=cognito.enabled,
        region=cognito.region,
        userPoolID=cognito.user_pool_id,
        clientID=cognito.client_id,
        identityPoolID=cognito.identity_pool_id,
        adminGroups=cognito.admin_groups,
        viewerGroups=cognito.viewer_groups,
        domain=cognito.domain,
        notes=notes or [],
    )
