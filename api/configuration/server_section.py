"""The server section beside the machine it is for: can it be served, which values win, and what needs a restart."""

from __future__ import annotations

import errno
import ipaddress
import socket
from pathlib import Path

from api.serving.tls import CertificateInvalid, check_certificate
from perdure.domain.configuration import LogConfiguration, ServerConfiguration
from perdure.domain.values import Frozen
from perdure.settings import ApiSettings


class Problem(Frozen):
    """Why a section cannot be served: the field and one sentence."""

    field: str
    message: str


def serving(settings: ApiSettings, stored: ServerConfiguration) -> tuple[ServerConfiguration, dict[str, str]]:
    """What a server that starts now goes by, and for each field that its environment decides the variable's name.

    A variable that is not usable is ignored here: the server itself refuses to start with it.
    """
    variables = {
        "api_host": ("address", "PERDURE_API_HOST"),
        "api_port": ("port", "PERDURE_API_PORT"),
        "api_cert_file": ("cert_file", "PERDURE_API_CERT_FILE"),
        "api_key_file": ("key_file", "PERDURE_API_KEY_FILE"),
    }
    won = {field: name for setting, (field, name) in variables.items() if setting in settings.model_fields_set}
    values = {field: getattr(settings, setting) for setting, (field, _) in variables.items() if field in won}
    values |= {field: str(values[field]) for field in ("cert_file", "key_file") if values.get(field) is not None}
    return stored.model_copy(update=values), won


def log_sources(settings: ApiSettings) -> dict[str, str]:
    """Fields of the log section that this server's environment decides, with the variable's name."""
    return {"level": "PERDURE_LOG_LEVEL"} if "log_level" in settings.model_fields_set else {}


def validate_server(section: ServerConfiguration, now: ServerConfiguration) -> list[Problem]:
    """Why a server could not start with `section`; empty: it could. `now` is what it serves with: its own port is not
    taken. Opens a socket and reads the files."""
    return [*_address_problems(section, now), *_certificate_problems(section)]


def restart_notes(old: ServerConfiguration, new: ServerConfiguration, *, first_start: bool = False) -> list[str]:
    """What a change of the section does when, a sentence each. With `first_start` a server to which no certificate is
    set serves the one that its first start made."""
    notes = []
    if new.address != old.address:
        notes.append(f"Address {new.address} takes effect after a restart of the server.")
    if new.port != old.port:
        notes.append(f"Port {new.port} takes effect after a restart of the server.")
    if (new.cert_file is None) != (old.cert_file is None) and not (first_start and old.cert_file is None):
        what = "Plain HTTP" if new.cert_file is None else "TLS"
        notes.append(f"{what} takes effect after a restart of the server.")
    elif (new.cert_file, new.key_file) != (old.cert_file, old.key_file):
        notes.append("The new certificate is used for new connections within seconds, without a restart.")
    kept = ("keep_succeeded_seconds", "keep_failed_seconds", "keep_audit_seconds")
    if any(getattr(new, name) != getattr(old, name) for name in kept):
        notes.append("How long records are kept takes effect at the next clean-up.")
    if new.keep_volume_seconds != old.keep_volume_seconds:
        notes.append("How long volumes are kept takes effect within ten minutes, for those that are there as well.")
    if new.orphan_grace_seconds != old.orphan_grace_seconds:
        notes.append("How long orphans are left takes effect within an hour, for those that are known as well.")
    return notes


def _address_problems(section: ServerConfiguration, now: ServerConfiguration) -> list[Problem]:
    if (section.address, section.port) == (now.address, now.port):
        return []
    try:
        address = ipaddress.ip_address("127.0.0.1" if section.address == "localhost" else section.address)
    except ValueError:
        return [Problem(field="address", message=f"{section.address!r} is not an IP address")]
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((str(address), section.port))
    except OSError as problem:
        if problem.errno == errno.EADDRINUSE:
            if section.port == now.port:
                return []  # by this server itself: a listener on one address blocks its other ones
            return [Problem(field="port", message=f"port {section.port} is taken by another program; choose another")]
        if problem.errno == errno.EACCES:
            message = f"the server's user may not open port {section.port}; choose one above 1023"
            return [Problem(field="port", message=message)]
        return [
            Problem(field="address", message=f"this machine cannot listen on {section.address}: {problem.strerror}")
        ]
    return []


def _certificate_problems(section: ServerConfiguration) -> list[Problem]:
    if section.cert_file is None or section.key_file is None:
        return []
    try:
        check_certificate(Path(section.cert_file), Path(section.key_file))
    except CertificateInvalid as problem:
        return [Problem(field=problem.field, message=str(problem))]
    return []


def log_notes(new: LogConfiguration, sources: dict[str, str]) -> list[str]:
    """What a change of the log section does when."""
    notes = ["The log settings take effect within seconds on the server, the control worker and every agent."]
    if "level" in sources:
        notes.append(f"This server keeps its own level: {sources['level']} is set in its environment and wins.")
    return notes
