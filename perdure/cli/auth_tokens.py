"""`perdure auth token`: API tokens, made, listed and revoked in the server's database itself."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from perdure.domain.access import USUAL_LIFE, ApiToken, Role
from perdure.domain.errors import PerdureError
from perdure.records.access import audit, tokens
from perdure.records.schema.database import migrate, open_engine, writing
from perdure.settings import ApiSettings

app = typer.Typer(help="API tokens, for scripts and for a first sign-in.", no_args_is_help=True)

CREATED, OK = 201, 200
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.callback()
def _group() -> None:
    pass


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for; the audit log shows it.")],
    role: Annotated[Role, typer.Option(help="viewer reads; admin also changes things.")] = Role.VIEWER,
    area: Annotated[
        list[str] | None, typer.Option(help="First word of the paths that it may ask for, such as jobs; none: all.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=366, help="How long it holds.")] = USUAL_LIFE.days,
) -> None:
    """Make a token and print it. It is shown this once."""
    now = datetime.now(UTC)
    with server_database() as session:
        token, secret = tokens.create_token(
            session, name=name, role=role, areas=area or [], at=now, by=this_user(), life=timedelta(days=days)
        )
        _note(session, "create", token, CREATED)
    print(f"{token.label}: {token.role.value}, until {token.expires_at:%Y-%m-%d}", file=sys.stderr)
    print(secret)


@app.command("list")
def show(as_json: AsJson = False) -> None:
    """List all tokens, newest first; never the tokens themselves."""
    with server_database() as session:
        found = list(_all(session))
    if as_json:
        print(json.dumps([token.model_dump(mode="json") for token in found]))
        return
    now = datetime.now(UTC)
    table = Table("number", "name", "role", "areas", "until", "last used", "", box=None)
    for token in found:
        used = f"{token.last_used_at:%Y-%m-%d %H:%M}" if token.last_used_at else "never"
        areas = " ".join(token.areas) or "all"
        until = f"{token.expires_at:%Y-%m-%d}"
        table.add_row(str(token.number), token.name, token.role.value, areas, until, used, token.refusal(now) or "")
    Console().print(table if found else "There are no API tokens.")


@app.command()
def revoke(number: Annotated[int, typer.Argument(help="Number of the token: `perdure auth token list`.")]) -> None:
    """Let a token open nothing any more."""
    with server_database() as session:
        token = tokens.revoke_token(session, number, at=datetime.now(UTC), by=this_user())
        _note(session, "revoke", token, OK)
    print(f"{token.label} {token.refusal(datetime.now(UTC))}")


@contextmanager
def server_database() -> Iterator[Session]:
    """The server's own database, in one transaction. PerdureError when it cannot be used."""
    url = ApiSettings().database_url
    engine = open_engine(url)
    try:
        migrate(engine)
        with writing(engine) as session:
            yield session
    except OperationalError as problem:
        where = engine.url.render_as_string(hide_password=True)
        raise PerdureError(
            f"the database {where} cannot be used (PERDURE_DATABASE_URL names it): {problem.orig}"
        ) from problem
    finally:
        engine.dispose()


def _all(session: Session) -> Iterator[ApiToken]:
    after: str | None = None
    while True:
        page = tokens.list_tokens(session, limit=200, after=after)
        yield from page.items
        after = page.next
        if after is None:
            return


def _note(session: Session, verb: str, token: ApiToken, outcome: int) -> None:
    detail: dict[str, Any] = {"role": token.role.value, "areas": token.areas}
    audit.note(
        session,
        at=datetime.now(UTC),
        who=this_user(),
        via="cli",
        action=f"perdure auth token {verb}",
        target=token.label,
        outcome=outcome,
        address="",
        detail=detail,
    )


def this_user() -> str:
    """Who sits at this machine, for the audit log."""
    return getpass.getuser()
