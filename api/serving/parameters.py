"""Query parameters that several lists share: times, texts, names."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import AwareDatetime

PLAIN = r"^[^\x00-\x1f\x7f]*$"
"""No control characters: no name holds one."""
NAME = r"^[A-Za-z0-9_:./-]{1,256}$"

Text = Annotated[
    str,
    Query(
        max_length=200,
        pattern=PLAIN,
        description="Only those with this text in their id or names, whatever its case; taken literally.",
        examples=["align"],
    ),
]


def time(what: str) -> object:
    """A query parameter that bounds a time."""
    return Query(description=f"{what}. ISO 8601 with a time zone.", examples=["2026-03-01T12:00:00Z"])


Time = AwareDatetime | None
