"""Who is asking: a name, a role, and how we know."""

from __future__ import annotations

from dataclasses import dataclass

from perdure.domain.access import Role as Role


@dataclass(frozen=True)
class Principal:
    """Somebody who may ask. `via`: `loopback` (no sign-in is set up), `token` or `cognito`.

    `areas`: first words of the paths below /api/v1 that this one may ask for, such as `jobs`; empty: all.
    """

    name: str
    role: Role
    via: str
    areas: frozenset[str] = frozenset()

    @property
    def is_admin(self) -> bool:
        """May this one change things?"""
        return self.role is Role.ADMIN
