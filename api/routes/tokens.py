"""API tokens for scripts: made, listed, revoked. The token itself is shown once."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import Session

from api.auth.principals import Principal, Role
from api.auth.rules import Routes, admins_only, area
from api.dependencies import Asking, Cursor, Database, Limit
from api.serving.errors import described
from api.serving.reading import reads
from api.wire.responses import PageOf, Wire
from perdure.domain.access import LONGEST_LIFE, TOKEN_NAME, USUAL_LIFE
from perdure.domain.configuration import Seconds
from perdure.domain.errors import ConfigurationInvalid, NotAllowed
from perdure.records.access import tokens
from perdure.records.schema.database import writing

router = APIRouter(prefix="/tokens", tags=["access"])

Number = Annotated[int, Path(ge=1, lt=2**31, description="Number of the token.", examples=[3])]
Area = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,40}$")]


class TokenWish(BaseModel):
    """What a new token may do, and for how long."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "nightly report"}]})

    name: str = Field(
        pattern=TOKEN_NAME, description="What it is for; the audit log shows it.", examples=["nightly report"]
    )
    role: Role = Field(Role.VIEWER, description="`viewer` reads; `admin` also changes things.")
    areas: list[Area] = Field(
        default_factory=list,
        max_length=40,
        description="First words of the paths below /api/v1 that it may ask for; none: all.",
        examples=[["jobs", "report"]],
    )
    expires_in_seconds: Seconds = Field(
        USUAL_LIFE.total_seconds(),
        ge=60,
        le=LONGEST_LIFE.total_seconds(),
        description="Seconds, or a duration such as `24h`, until it opens nothing any more: 1 minute to 366 days.",
        examples=[7_776_000],
    )


class TokenView(Wire):
    """An API token, without the token itself."""

    number: int = Field(examples=[3])
    name: str = Field(examples=["nightly report"])
    role: Role
    areas: list[str] = Field(description="First words of the paths that it may ask for; empty: all.")
    created_at: datetime
    created_by: str
    expires_at: datetime
    last_used_at: datetime | None = Field(description="To within a minute; null: never.")
    revoked_at: datetime | None
    revoked_by: str | None


class NewToken(TokenView):
    """A token that was just made."""

    token: str = Field(description="Send it as `Authorization: Bearer …`. It is shown this once.", examples=["prd_…"])


@router.post("", status_code=HTTPStatus.CREATED, summary="Make an API token")
def create(wish: TokenWish, asking: Asking, database: Database, request: Request) -> NewToken:
    """A token cannot make one that may do more than itself."""
    _no_more_than(asking, wish)
    _known(wish.areas, request)
    with writing(database) as session:
        token, secret = tokens.create_token(
            session,
            name=wish.name,
            role=wish.role,
            areas=wish.areas,
            at=datetime.now(UTC),
            by=asking.name,
            life=timedelta(seconds=wish.expires_in_seconds),
        )
    request.state.audit = {"token": token.label, "role": token.role.value, "areas": token.areas}
    return NewToken(**TokenView.model_validate(token).model_dump(), token=secret)


@router.get("", summary="All API tokens, newest first")
@admins_only
@reads
def read_all(session: Session, limit: Limit = 50, cursor: Cursor = None) -> PageOf[TokenView]:
    """Those that expired or were revoked too."""
    return PageOf[TokenView].model_validate(tokens.list_tokens(session, limit=limit, after=cursor))


@router.get("/{number}", summary="One API token", responses=described(HTTPStatus.NOT_FOUND))
@admins_only
@reads
def read(session: Session, number: Number) -> TokenView:
    return TokenView.model_validate(tokens.get_token(session, number))


@router.delete("/{number}", summary="Revoke an API token", responses=described(HTTPStatus.NOT_FOUND))
def revoke(database: Database, asking: Asking, number: Number, request: Request) -> TokenView:
    """It opens nothing from the next request on. Its line stays in the list. Doing it twice changes nothing."""
    with writing(database) as session:
        token = tokens.revoke_token(session, number, at=datetime.now(UTC), by=asking.name)
    request.state.audit = {"token": token.label}
    return TokenView.model_validate(token)


def _no_more_than(asking: Principal, wish: TokenWish) -> None:
    # Only admins come this far, so the role can never be more than theirs.
    if asking.areas and not (wish.areas and asking.areas >= set(wish.areas)):
        raise NotAllowed(f"{asking.name} may only make tokens for {', '.join(sorted(asking.areas))}.")


def _known(areas: Iterable[str], request: Request) -> None:
    there_are = {area(route.template) for route in Routes(request.app).all} - {""}
    unknown = sorted(set(areas) - there_are)
    if unknown:
        raise ConfigurationInvalid(f"There is no area {unknown[0]!r}; there are {', '.join(sorted(there_are))}.")
