"""What `perdure login` keeps: servers, with the proof of who asks there. One file of the user's own, mode 0600."""

from __future__ import annotations

from pathlib import Path

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perdure.domain.errors import ConfigurationInvalid
from perdure.private_files import write_private


class SignIn(BaseModel):
    """One server. A token that is made for programs, or a person's tokens of Cognito; `certificate` (PEM) is trusted
    for this server beside the system's own authorities."""

    model_config = ConfigDict(extra="ignore")

    api_token: str = ""
    id_token: str = ""
    refresh_token: str = ""
    certificate: str = ""

    @property
    def bearer(self) -> str:
        """What goes along with each request; empty: nothing."""
        return self.api_token or self.id_token


class SignIns(BaseModel):
    """By URL; `last` is the server that command lines mean."""

    model_config = ConfigDict(extra="ignore")

    last: str = ""
    servers: dict[str, SignIn] = Field(default_factory=dict)


def sign_ins_file() -> Path:
    """Below the user's configuration folder."""
    return Path(typer.get_app_dir("perdure")) / "servers.json"


def load_sign_ins() -> SignIns:
    """What is kept. Raises ConfigurationInvalid when the file is none of ours."""
    file = sign_ins_file()
    try:
        return SignIns.model_validate_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return SignIns()
    except (OSError, ValidationError) as problem:
        raise ConfigurationInvalid(f"{file} cannot be used: {problem}; delete it and sign in again") from problem


def save_sign_ins(kept: SignIns) -> None:
    """Replace what is kept in one step; nobody but the user can read it."""
    file = sign_ins_file()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(file, kept.model_dump_json(indent=1).encode())
