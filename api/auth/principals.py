"""Who is asking: a name, a role, and how we know."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """`viewer` reads everything but secrets; `admin` also changes things."""

    VIEWER = "viewer"
    ADMIN = "admin"


@dataclass(frozen=True)
class Principal:
    """Somebody who may ask. `via`: `loopback` (no sign-in is set up), `token` or `cognito`."""

    name: str
    role: Role
    via: str

    @property
    def is_admin(self) -> bool:
        """May this one change things?"""
        return self.role is Role.ADMIN
