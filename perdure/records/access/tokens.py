"""API tokens: made, found by what a client sends, used, revoked. Only the hash of one is ever stored."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from collections.abc import Collection
from datetime import datetime, timedelta

from sqlmodel import Session, col, select, update

from perdure.domain.access import LONGEST_LIFE, TOKEN_NAME, ApiToken, Role
from perdure.domain.errors import ConfigurationInvalid, UnknownToken
from perdure.records.schema.access_tables import TokenRow
from perdure.records.schema.pages import Keyset, Page

PREFIX = "prd_"
"""Begins every token, so that one that leaks into a repository is found by scanners."""
_BYTES, _BODY, _CHECK = 32, 43, 6
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
NOTE_USE_EVERY = timedelta(minutes=1)


def new_secret() -> str:
    """A new token: 256 random bits and a checksum, in letters and digits."""
    body = _base62(int.from_bytes(secrets.token_bytes(_BYTES), "big"), _BODY)
    return f"{PREFIX}{body}{_checksum(body)}"


def well_formed(secret: str) -> bool:
    """Could this be a token of ours? What was mistyped or made up is told apart without asking the database."""
    body, check = secret[len(PREFIX) : -_CHECK], secret[-_CHECK:]
    return (
        secret.startswith(PREFIX)
        and len(secret) == len(PREFIX) + _BODY + _CHECK
        and secret.isascii()
        and hmac.compare_digest(_checksum(body), check)
    )


def create_token(
    session: Session,
    *,
    name: str,
    role: Role,
    areas: Collection[str],
    at: datetime,
    by: str,
    life: timedelta,
) -> tuple[ApiToken, str]:
    """A new token that holds for `life`, and its secret, which nobody can read again. ConfigurationInvalid: such a life
    or name is not allowed."""
    if not timedelta(seconds=1) <= life <= LONGEST_LIFE:
        raise ConfigurationInvalid(f"a token holds for at least a second and at most {LONGEST_LIFE.days} days")
    if not re.fullmatch(TOKEN_NAME.removesuffix("$"), name):
        raise ConfigurationInvalid(
            "a token's name has 1 to 60 letters, digits, spaces and . _ @ -, a letter or digit first"
        )
    secret = new_secret()
    row = TokenRow(
        sha256=_hash(secret),
        name=name,
        role=role.value,
        areas=sorted(set(areas)),
        created_at=at,
        created_by=by,
        expires_at=at + life,
        last_used_at=None,
        revoked_at=None,
        revoked_by=None,
    )
    session.add(row)
    session.flush()
    return _token(row), secret


def find_token(session: Session, secret: str) -> ApiToken | None:
    """The token that was sent, whatever has become of it; None: there is none such."""
    if not well_formed(secret):
        return None
    wanted = _hash(secret)
    row = session.exec(select(TokenRow).where(col(TokenRow.sha256) == wanted)).first()
    return _token(row) if row is not None and hmac.compare_digest(row.sha256, wanted) else None


def use_is_worth_noting(token: ApiToken, now: datetime) -> bool:
    """Is the last use that was noted too long ago?"""
    return token.last_used_at is None or now - token.last_used_at >= NOTE_USE_EVERY


def note_use(session: Session, token: ApiToken, at: datetime) -> None:
    """It was used."""
    session.execute(update(TokenRow).where(col(TokenRow.number) == token.number).values(last_used_at=at))


def get_token(session: Session, number: int) -> ApiToken:
    """One token. UnknownToken."""
    return _token(_row(session, number))


def list_tokens(session: Session, *, limit: int = 50, after: str | None = None) -> Page[ApiToken]:
    """All tokens, newest first, revoked and expired ones too. `after`: the `next` of the page before."""
    keyset = Keyset(col(TokenRow.number), down=True, question=["tokens"])
    query = select(TokenRow).order_by(*keyset.directed()).limit(limit + 1)
    if after is not None:
        query = query.where(keyset.beyond(keyset.read(after)))
    return keyset.page([_token(row) for row in session.exec(query)], limit, lambda token: (token.number,))


def revoke_token(session: Session, number: int, *, at: datetime, by: str) -> ApiToken:
    """From now on it opens nothing. One that is revoked already stays as it is. UnknownToken."""
    row = _row(session, number)
    if row.revoked_at is None:
        row.revoked_at, row.revoked_by = at, by
        session.add(row)
        session.flush()
    return _token(row)


def admin_token_exists(session: Session, now: datetime) -> bool:
    """Is there a token that opens everything now?"""
    query = select(TokenRow).where(
        col(TokenRow.role) == Role.ADMIN.value, col(TokenRow.revoked_at).is_(None), col(TokenRow.expires_at) > now
    )
    return any(not row.areas for row in session.exec(query))


def _row(session: Session, number: int) -> TokenRow:
    row = session.get(TokenRow, number) if 0 < number < 2**31 else None
    if row is None:
        raise UnknownToken(f"There is no API token {number}.")
    return row


def _token(row: TokenRow) -> ApiToken:
    return ApiToken.model_validate(row.model_dump())


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECK)


def _base62(number: int, width: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    return digits.rjust(width, _DIGITS[0])
