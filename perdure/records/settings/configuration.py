"""The system configuration: what holds, and who changed it when. Saved versions are never changed or deleted."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise

from sqlalchemy import func
from sqlmodel import Session, col, select

from perdure.domain.configuration import FieldChange, SystemConfiguration, differences
from perdure.domain.values import EPOCH, Frozen
from perdure.records.schema.pages import Keyset, Page
from perdure.records.schema.tables import ConfigurationRow
from perdure.records.settings.stored_configuration import read_stored

DEFAULTS_FROM = EPOCH


class ConfigurationChange(Frozen):
    """One saved version; numbers rise. Number 0: nothing was ever saved, and the defaults hold."""

    number: int
    at: datetime
    by: str
    configuration: SystemConfiguration


class HistoryEntry(Frozen):
    """What one saved version changed."""

    number: int
    at: datetime
    by: str
    changes: list[FieldChange]


DEFAULTS = ConfigurationChange(number=0, at=DEFAULTS_FROM, by="", configuration=SystemConfiguration())


def newest_configuration(session: Session) -> ConfigurationChange:
    """The version that holds."""
    newest = configuration_history(session, limit=1)
    return newest[0] if newest else DEFAULTS


def newest_number(session: Session) -> int:
    """Its number alone, which is quick to ask for again and again."""
    return session.exec(select(func.max(col(ConfigurationRow.number)))).one() or 0


def current_configuration(session: Session) -> SystemConfiguration:
    """The newest saved one, or the defaults."""
    return newest_configuration(session).configuration


def configuration_at(session: Session, at: datetime) -> SystemConfiguration:
    """The one that held at that time."""
    query = (
        select(ConfigurationRow)
        .where(col(ConfigurationRow.at) <= at)
        .order_by(col(ConfigurationRow.number).desc())
        .limit(1)
    )
    row = session.exec(query).first()
    return _change(row).configuration if row else DEFAULTS.configuration


def save_configuration(
    session: Session, configuration: SystemConfiguration, *, at: datetime, by: str, after: int | None = None
) -> ConfigurationChange:
    """Make it the one that holds. `after` is the number of the version it was made of: its own is the next, which only
    one writer may have. IntegrityError when another was quicker."""
    number = (newest_number(session) if after is None else after) + 1
    row = ConfigurationRow(number=number, at=at, by=by, configuration=configuration.model_dump(mode="json"))
    session.add(row)
    session.flush()
    return _change(row)


def configuration_history(session: Session, *, limit: int = 50, before: int | None = None) -> list[ConfigurationChange]:
    """Saved versions, newest first, older than number `before`."""
    query = select(ConfigurationRow).order_by(col(ConfigurationRow.number).desc()).limit(limit)
    if before is not None:
        query = query.where(col(ConfigurationRow.number) < before)
    return [_change(row) for row in session.exec(query)]


def list_changes(session: Session, *, limit: int = 50, after: str | None = None) -> Page[HistoryEntry]:
    """What each version changed, newest first. `after` is the `next` of the page before; ConfigurationInvalid."""
    keyset = Keyset(col(ConfigurationRow.number), down=True, question=["configuration"])
    before = None if after is None else int(keyset.read(after)[0])
    versions = configuration_history(session, limit=limit + 1, before=before)
    complete = len(versions) <= limit
    compared = pairwise([*versions, DEFAULTS] if complete else versions)
    entries = [
        HistoryEntry(number=new.number, at=new.at, by=new.by, changes=differences(old.configuration, new.configuration))
        for new, old in compared
    ]
    return Page(items=entries, next=None if complete or not entries else keyset.write(entries[-1].number))


def _change(row: ConfigurationRow) -> ConfigurationChange:
    number = row.number or 0
    configuration = read_stored(number, row.configuration)
    return ConfigurationChange(number=number, at=row.at, by=row.by, configuration=configuration)
