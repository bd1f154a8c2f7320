"""Alembic's entry: migrates over the connection (and in the transaction) that perdure.records.schema.database hands in.

For a developer's `alembic revision --autogenerate`, see the module docstring of tables.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from perdure.records.schema.all_tables import METADATA

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
context.run_migrations()
