"""Tables of prices: what AWS said, and until when it was asked. Money in micro-dollars."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, String, Table
from sqlmodel import SQLModel

from perdure.records.schema.tables import Instant

spot_prices = Table(
    "spot_prices",
    SQLModel.metadata,
    Column("instance_type", String, primary_key=True),
    Column("zone", String, primary_key=True),
    Column("at", Instant, primary_key=True),
    Column("micros_per_hour", BigInteger, nullable=False),
)
"""A Spot price holds from `at` until the next one of the same instance type and zone."""

spot_price_looks = Table(
    "spot_price_looks",
    SQLModel.metadata,
    Column("instance_type", String, primary_key=True),
    Column("zone", String, primary_key=True),
    Column("known_until", Instant),
    Column("looked_at", Instant, nullable=False),
    Column("problem", String, nullable=False),
)
"""Until when AWS has told the Spot prices of an (instance type, zone), and why it did not the last time."""

on_demand_prices = Table(
    "on_demand_prices",
    SQLModel.metadata,
    Column("instance_type", String, primary_key=True),
    Column("region", String, primary_key=True),
    Column("micros_per_hour", BigInteger),
    Column("looked_at", Instant, nullable=False),
    Column("problem", String, nullable=False),
)
"""The list price of an instance type in a region; NULL: not known, `problem` says why."""

storage_prices = Table(
    "storage_prices",
    SQLModel.metadata,
    Column("kind", String, primary_key=True),
    Column("region", String, primary_key=True),
    Column("micros_per_gib_month", BigInteger, nullable=False),
    Column("looked_at", Instant, nullable=False),
)
"""The list price of a kind of storage (a volume type, `snapshot`) in a region."""
