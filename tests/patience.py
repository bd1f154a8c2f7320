"""How long a test waits for what should come."""

from __future__ import annotations

PATIENCE = 300.0
"""Seconds after which something that should have happened has failed. It costs nothing where it happens, and a machine
that does other things, too, may take minutes for it. A test's own time-out (pyproject.toml) is longer."""
