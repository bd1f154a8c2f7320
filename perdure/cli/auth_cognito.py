"""`perdure auth cognito`: sign-in turned on, off or shown in the server's database itself: for an administrator who is
locked out, and for the first set-up. There is no lock-out guard here: whoever may write the database may undo it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import ValidationError
from sqlmodel import Session

from perdure.cli.auth_tokens import AsJson, server_database, this_user
from perdure.domain.configuration import CognitoConfiguration
from perdure.domain.errors import ConfigurationInvalid
from perdure.records.access import audit, sessions
from perdure.records.settings.configuration import current_configuration, save_configuration

app = typer.Typer(help="Sign-in with Amazon Cognito.", no_args_is_help=True)
OK = 200
_WITHIN = "A running server goes by it within a second."


@app.callback()
def _group() -> None:
    pass


@app.command()
def enable(
    region: Annotated[str | None, typer.Option(help="AWS region of the user pool.")] = None,
    user_pool_id: Annotated[str | None, typer.Option(help="The user pool's id.")] = None,
    client_id: Annotated[str | None, typer.Option(help="Its app client for Perdure, without a secret.")] = None,
    domain: Annotated[str | None, typer.Option(help="Base URL of the hosted page; '' for none.")] = None,
    admin_group: Annotated[list[str] | None, typer.Option(help="Its members may change things; repeat it.")] = None,
    viewer_group: Annotated[list[str] | None, typer.Option(help="Its members may read; none: everyone.")] = None,
) -> None:
    """Turn it on. What is not said stays as it was."""
    given = {
        "region": region,
        "user_pool_id": user_pool_id,
        "client_id": client_id,
        "domain": domain,
        "admin_groups": admin_group,
        "viewer_groups": viewer_group,
    }
    with server_database() as session:
        stored = current_configuration(session).cognito
        values = {name: value for name, value in given.items() if value is not None}
        try:
            wanted = CognitoConfiguration.model_validate(stored.model_dump() | values | {"enabled": True})
        except ValidationError as problem:
            first = problem.errors()[0]
            where = "--" + ".".join(map(str, first["loc"][:1])).replace("_", "-").removesuffix("s")
            message = first["msg"].removeprefix("Value error, ")
            raise ConfigurationInvalid(f"{where if first['loc'] else 'Cognito'}: {message}") from None
        _save(session, wanted, "enable")
    admins = ", ".join(wanted.admin_groups)
    print(f"Sign-in is on: pool {wanted.user_pool_id}, admins are members of {admins}. {_WITHIN}")


@app.command()
def disable() -> None:
    """Turn it off and end all sessions. The pool stays in the configuration."""
    with server_database() as session:
        _save(session, current_configuration(session).cognito.model_copy(update={"enabled": False}), "disable")
        ended = sessions.end_sessions(session)
    print(f"Sign-in with Cognito is off; {ended} sessions ended. {_WITHIN}")
    print("A server that others can reach takes API tokens alone now: `perdure auth token create`.")


@app.command()
def show(as_json: AsJson = False) -> None:
    """Show how it is set up."""
    with server_database() as session:
        found = current_configuration(session).cognito
    if as_json:
        print(found.model_dump_json())
        return
    for name, value in found.model_dump().items():
        shown = value if isinstance(value, str) else json.dumps(value)
        print(f"{name.replace('_', ' '):>17}  {shown}".rstrip())


def _save(session: Session, wanted: CognitoConfiguration, verb: str) -> None:
    stored = current_configuration(session)
    now = datetime.now(UTC)
    if wanted != stored.cognito:
        save_configuration(session, stored.model_copy(update={"cognito": wanted}), at=now, by=f"{this_user()} (cli)")
    audit.note(
        session,
        at=now,
        who=this_user(),
        via="cli",
        action=f"perdure auth cognito {verb}",
        target=wanted.user_pool_id,
        outcome=OK,
        address="",
        detail={},
    )
