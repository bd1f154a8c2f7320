"""A first start where nobody can type a command, as in a container: a token and a certificate are left in a folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine, text
from sqlmodel import Session

from api.auth.binding import somebody_can_sign_in
from api.serving.tls import CertificateInvalid, check_certificate
from perdure.certificates import CertificateFiles, make_self_signed
from perdure.domain.access import LONGEST_LIFE, Role
from perdure.domain.configuration import ServerConfiguration
from perdure.private_files import write_private
from perdure.records.access import audit
from perdure.records.access.tokens import create_token
from perdure.records.schema.database import writing

TOKEN_FILE = "admin-token"


def bootstrap(engine: Engine, folder: Path, names: str, serving: ServerConfiguration, now: datetime) -> list[str]:
    """Make what is missing: an admin's token if nobody could sign in, a self-signed certificate if none is set (the one
    from last time is kept until it is about to expire). Returns a sentence for each thing made; the token itself is
    only ever in the file, 0600. Starting again, or several at once, changes nothing.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(folder):
        made = []
        with writing(engine) as session:
            _lock(session)
            if not somebody_can_sign_in(session, now):
                made.append(_token(session, folder, now))
        if serving.cert_file is None:
            made += _certificate(folder, names, now)
    return made


def certificate_of(folder: Path) -> CertificateFiles:
    """Where the certificate of a first start is."""
    return CertificateFiles(folder / "server.crt", folder / "server.key")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process that shares the folder is at it meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lock(session: Session) -> None:
    """No other server of this database makes a token meanwhile. SQLite lets one write at a time anyhow."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("LOCK TABLE api_tokens IN SHARE ROW EXCLUSIVE MODE"))


def _token(session: Session, folder: Path, now: datetime) -> str:
    token, secret = create_token(
        session, name="first start", role=Role.ADMIN, areas=(), at=now, by="first start", life=LONGEST_LIFE
    )
    audit.note(
        session,
        at=now,
        who="first start",
        via="cli",
        action="first start",
        target=str(folder / TOKEN_FILE),
        outcome=201,
        address="",
        detail={"token": token.label},
    )
    # Before the transaction ends: a token that is stored but nowhere written could never be used.
    write_private(folder / TOKEN_FILE, f"{secret}\n".encode())
    return f"An admin's API token is in {folder / TOKEN_FILE}; it holds until {token.expires_at:%Y-%m-%d}."


def _certificate(folder: Path, names: str, now: datetime) -> list[str]:
    files = certificate_of(folder)
    try:
        if not check_certificate(files.cert_file, files.key_file, now).warning:
            return []
    except CertificateInvalid:
        pass  # none yet, or one that cannot be served: it is ours to replace
    given = names.replace(",", " ").split()
    all_names = [*given, socket.gethostname(), "localhost", "127.0.0.1", "::1"]
    make_self_signed(all_names, folder, now, replace=True)
    return [f"A self-signed certificate is in {files.cert_file}; give clients this file, or set one of your own."]
