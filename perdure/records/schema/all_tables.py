"""Every table: importing this module fills METADATA, which migrations and backups go by."""

from __future__ import annotations

from sqlmodel import SQLModel

from perdure.records.schema import (
    access_tables,
    ledger_tables,
    list_tables,
    log_tables,
    orphan_tables,
    price_tables,
    sign_in_tables,
    tables,
)

MODULES = (
    *(access_tables, ledger_tables, list_tables, log_tables, orphan_tables, price_tables, sign_in_tables),
    tables,
)
METADATA = SQLModel.metadata
