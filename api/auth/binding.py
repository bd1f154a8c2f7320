"""Where the server may listen: loopback as it likes, anywhere else only with a sign-in and a certificate."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session

from api.auth.door import is_loopback
from perdure.domain.configuration import ServerConfiguration
from perdure.domain.errors import ConfigurationInvalid
from perdure.records.access.tokens import admin_token_exists
from perdure.records.settings.configuration import current_configuration

NO_SIGN_IN = (
    "The API does not start on {address}: nobody could sign in. Make an API token on this machine"
    " (perdure auth token create NAME --role admin) or enable Cognito, or set PERDURE_API_HOST=127.0.0.1."
)
NO_TLS = (
    "The API does not start on {address}: without TLS everybody on the way could read what is sent. Set"
    " PERDURE_API_CERT_FILE and PERDURE_API_KEY_FILE (for a trial: perdure auth certificate --self-signed --name HOST"
    " --out FOLDER), or set PERDURE_API_HOST=127.0.0.1."
)
HALF_A_PAIR = "A certificate and its key go together: {given} is set, and {missing} is not."


def check_binding(serving: ServerConfiguration, somebody_can_sign_in: bool) -> None:
    """ConfigurationInvalid, with what to do about it, if the server must not start so."""
    for given, missing in (("cert_file", "key_file"), ("key_file", "cert_file")):
        if getattr(serving, given) is not None and getattr(serving, missing) is None:
            raise ConfigurationInvalid(HALF_A_PAIR.format(given=given, missing=missing))
    if is_loopback(serving.address):
        return
    if not somebody_can_sign_in:
        raise ConfigurationInvalid(NO_SIGN_IN.format(address=serving.address))
    if serving.cert_file is None:
        raise ConfigurationInvalid(NO_TLS.format(address=serving.address))


def somebody_can_sign_in(session: Session, now: datetime) -> bool:
    """Is there a way in that leads to changing things: Cognito, or an admin's token that still holds?"""
    return current_configuration(session).cognito.enabled or admin_token_exists(session, now)
