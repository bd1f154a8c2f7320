"""Alembic's entry: migrates over the connection (and in the transaction) that perdure.records.database hands in.

For a developer's `alembic revision --autogenerate`, see the module docstring of tables.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection
from sqlmodel import SQLModel

from perdure.records import ledger_tables, sign_in_tables, tables

assert tables and sign_in_tables and ledger_tables, "importing the tables fills SQLModel.metadata"

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=SQLModel.metadata, render_as_batch=True)
context.run_migrations()
