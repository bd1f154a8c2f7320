"""`perdure auth`: who gets in. On the server's machine: it needs the database, not the server."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from perdure.certificates import make_self_signed
from perdure.cli import auth_cognito, auth_tokens
from perdure.domain.errors import ConfigurationInvalid

app = typer.Typer(
    help="Who gets in: API tokens, Cognito and certificates, on the server's machine.", no_args_is_help=True
)
app.add_typer(auth_tokens.app, name="token")
app.add_typer(auth_cognito.app, name="cognito")


@app.callback()
def _group() -> None:
    pass


@app.command()
def certificate(
    names: Annotated[list[str], typer.Option("--name", help="Host name or IP address; give it for each.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for server.crt and server.key.")],
    self_signed: Annotated[bool, typer.Option("--self-signed", help="Nobody vouches for it: for trials.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the files that are there.")] = False,
) -> None:
    """Make a key and a self-signed certificate for trials."""
    if not self_signed:
        raise ConfigurationInvalid("only self-signed certificates are made here: say --self-signed, or ask your CA")
    files = make_self_signed(names, out, datetime.now(UTC), replace=force)
    print(f"PERDURE_API_CERT_FILE={files.cert_file.resolve()}")
    print(f"PERDURE_API_KEY_FILE={files.key_file.resolve()}")
