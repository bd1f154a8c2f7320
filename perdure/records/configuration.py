"""The system configuration: what holds, and who changed it when. Saved versions are never changed or deleted."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Session, col, select

from perdure.domain.configuration import SystemConfiguration
from perdure.domain.values import Frozen
from perdure.records.tables import ConfigurationRow


class ConfigurationChange(Frozen):
    """One saved version; numbers rise."""

    number: int
    at: datetime
    by: str
    configuration: SystemConfiguration


def current_configuration(session: Session) -> SystemConfiguration:
    """The newest saved one, or the defaults."""
    newest = configuration_history(session, limit=1)
    return newest[0].configuration if newest else SystemConfiguration()


def save_configuration(
    session: Session, configuration: SystemConfiguration, *, at: datetime, by: str
) -> ConfigurationChange:
    """Make it the one that holds."""
    row = ConfigurationRow(at=at, by=by, configuration=configuration.model_dump(mode="json"))
    session.add(row)
    session.flush()
    return ConfigurationChange.model_validate(row.model_dump())


def configuration_history(session: Session, *, limit: int = 50, before: int | None = None) -> list[ConfigurationChange]:
    """Saved versions, newest first, older than number `before`."""
    query = select(ConfigurationRow).order_by(col(ConfigurationRow.number).desc()).limit(limit)
    if before is not None:
        query = query.where(col(ConfigurationRow.number) < before)
    return [ConfigurationChange.model_validate(row.model_dump()) for row in session.exec(query)]
