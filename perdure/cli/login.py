"""`perdure login`, `perdure logout`: whom a server takes this user for, kept for the next command lines."""

from __future__ import annotations

import hashlib
import socket
import ssl
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from perdure.cli.server import ApiServer, Server, find_server, token_of_environment, trusting
from perdure.cli.sign_ins import SignIn, load_sign_ins, save_sign_ins
from perdure.domain.errors import ConfigurationInvalid, NotSignedIn, PerdureError

_QUESTIONS = {
    "NEW_PASSWORD_REQUIRED": "New password",
    "SMS_MFA": "Code from the text message",
    "EMAIL_OTP": "Code from the e-mail",
    "SOFTWARE_TOKEN_MFA": "Code of your authenticator",
}


def login(
    url: Annotated[str, typer.Argument(help="The server, such as https://perdure.example.com:8443.")] = "",
    username: Annotated[str, typer.Option("--username", "-u", help="Sign in with Cognito as this user.")] = "",
    token: Annotated[bool, typer.Option("--token", help="With an API token, asked for or read from a pipe.")] = False,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="PEM file: trust this certificate for the server.")
    ] = None,
    fingerprint: Annotated[
        str, typer.Option(help="SHA-256 of the server's certificate: trust it without a question.")
    ] = "",
) -> None:
    """Sign in to a server; later command lines mean this one.

    By user name and password where the server has a Cognito user pool, else with an API token, which an administrator
    makes (`perdure auth token create` on the server's machine). Passwords and tokens are never words of a command line.
    """
    base = (url or load_sign_ins().last).rstrip("/")
    if not base.startswith(("http://", "https://")):
        raise ConfigurationInvalid("name the server: perdure login https://HOST:PORT")
    trusted = SignIn(certificate=_certificate(base, certificate, fingerprint))
    server = ApiServer(base, trusted)
    if token or token_of_environment():
        signed_in = _with_token(trusted)
    elif server.get("/api/v1/auth")["enabled"]:
        signed_in = _with_password(server, username, trusted)
    else:
        signed_in = _without_pool(server, trusted)
    me = ApiServer(base, signed_in).get("/api/v1/auth/me")
    kept = load_sign_ins()
    kept.servers[base], kept.last = signed_in, base
    save_sign_ins(kept)
    print(f"signed in to {base} as {me['name']} ({me['role']})")


def logout(
    server: Server = "",
    everywhere: Annotated[bool, typer.Option(help="End this person's sessions on all machines, too.")] = False,
) -> None:
    """Forget the sign-in to a server; Cognito's tokens are revoked."""
    kept = load_sign_ins()
    base = (server or kept.last).rstrip("/")
    known = kept.servers.pop(base, None)
    if known is None:
        raise NotSignedIn(f"nobody is signed in to {base or 'any server'}")
    kept.last = "" if kept.last == base else kept.last
    save_sign_ins(kept)
    if known.refresh_token:
        body = {"refresh_token": known.refresh_token, "everywhere": everywhere}
        ApiServer(base, known).ask("POST", "/api/v1/auth/sign-out", body=body)
    print(f"signed out of {base}")


def whoami(server: Server = "") -> None:
    """Say which server is meant, and who the user is there."""
    asked = find_server(server, token_of_environment())
    me = asked.get("/api/v1/auth/me")
    print(f"{me['name']} ({me['role']}, by {me['via']}) at {asked.base}")


def _with_token(trusted: SignIn) -> SignIn:
    given = token_of_environment() or _secret("API token")
    return trusted.model_copy(update={"api_token": given})


def _without_pool(server: ApiServer, trusted: SignIn) -> SignIn:
    """A server without user names: it lets this machine's users in as they are, or asks for a token."""
    try:
        server.get("/api/v1/auth/me")
    except NotSignedIn:
        return _with_token(trusted)
    return trusted


def _with_password(server: ApiServer, username: str, trusted: SignIn) -> SignIn:
    name = username or _plain("User name")
    body: dict[str, Any] = {"username": name, "password": _secret("Password"), "keep": "tokens"}
    answer = server.ask("POST", "/api/v1/auth/sign-in", body=body).json()
    while challenge := answer.get("challenge"):
        question = _QUESTIONS.get(challenge["challenge"])
        if question is None:
            raise PerdureError(f"the user pool asks for {challenge['challenge']}, which only its own page can answer")
        body = {**challenge, "answer": _secret(question), "keep": "tokens"}
        answer = server.ask("POST", "/api/v1/auth/challenge", body=body).json()
    tokens = answer["tokens"]
    return trusted.model_copy(update={"id_token": tokens["id_token"], "refresh_token": tokens["refresh_token"] or ""})


def _plain(question: str) -> str:
    return typer.prompt(question, err=True) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")


def _secret(question: str) -> str:
    """Asked for without an echo; a line of standard input when that is no terminal."""
    given = typer.prompt(question, hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    if not given.strip():
        raise NotSignedIn(f"no {question.lower()} was given: type it, or pipe it in")
    return str(given.strip())


def _certificate(base: str, file: Path | None, fingerprint: str) -> str:
    """The certificate to trust for that server beside the system's authorities: given, known, or shown to the user."""
    if file is not None:
        return _readable(file)
    parts = urlsplit(base)
    known = load_sign_ins().servers.get(base)
    if parts.scheme != "https" or parts.hostname is None:
        return ""
    where = (parts.hostname, parts.port or 443)
    if not fingerprint and _is_trusted(where, None):
        return ""
    if known is not None and known.certificate and not fingerprint and _is_trusted(where, known.certificate):
        return known.certificate
    try:
        shown = ssl.get_server_certificate(where, timeout=10)
    except OSError as problem:
        raise PerdureError(f"the server at {base} cannot be reached: {problem}") from problem
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(shown)).hexdigest()
    if fingerprint:
        if fingerprint.replace(":", "").lower() != digest:
            raise PerdureError(f"the server at {base} shows another certificate: its SHA-256 is {digest}")
        return shown
    changed = " It is not the one that was trusted before!" if known is not None and known.certificate else ""
    question = f"No authority vouches for the certificate of {base}.{changed}\nSHA-256 {digest}\nTrust it?"
    if not sys.stdin.isatty():
        raise PerdureError(
            f"no authority vouches for the certificate of {base}.{changed} Its SHA-256 is {digest}; "
            "compare, and say --fingerprint"
        )
    if not typer.confirm(question, err=True):
        raise typer.Abort
    return shown


def _is_trusted(where: tuple[str, int], certificate: str | None) -> bool:

    context = trusting(certificate) if certificate else ssl.create_default_context()
    try:
        with (
            socket.create_connection(where, timeout=10) as connection,
            context.wrap_socket(connection, server_hostname=where[0]),
        ):
            return True
    except ssl.SSLCertVerificationError:
        return False
    except OSError as problem:
        raise PerdureError(f"{where[0]}:{where[1]} cannot be reached: {problem}") from problem


def _readable(file: Path) -> str:
    try:
        certificate = file.read_text()
        trusting(certificate)
    except (OSError, UnicodeDecodeError, ssl.SSLError) as problem:
        raise ConfigurationInvalid(f"{file} is no certificate that can be read (PEM): {problem}") from problem
    return certificate
