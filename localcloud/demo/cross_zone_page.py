"""What people see of the cross-zone scenario: both moves side by side, and what does not hold."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from localcloud.demo.cross_zone import CrossZone, Move
from perdure.domain.outages import PHASES


def page(told: CrossZone) -> RenderableType:
    """A column for each move."""
    table = Table(box=None, pad_edge=False)
    for name in ("", "cold", "warm", "warm / cold"):
        table.add_column(name, justify="left" if not name else "right", header_style="dim")
    cold, warm = told.cold, told.warm
    for phase in PHASES:
        if phase in cold.phases or phase in warm.phases:
            table.add_row(phase, _seconds(cold.phases.get(phase)), _seconds(warm.phases.get(phase)), "")
    table.add_row(
        "outage, seconds",
        _seconds(cold.outage_seconds),
        _seconds(warm.outage_seconds),
        _ratio(warm.outage_seconds, cold.outage_seconds),
        style="bold",
    )
    table.add_row(
        "moved after the notice, MiB",
        str(cold.moved_bytes >> 20),
        str(warm.moved_bytes >> 20),
        _ratio(warm.moved_bytes, cold.moved_bytes),
    )
    table.add_row("moved while it ran, MiB", str(cold.before_bytes >> 20), str(warm.before_bytes >> 20), "")
    table.add_row("zones", _zones(cold), _zones(warm), "")
    parts: list[RenderableType] = [Text(f"\nA change of zone, EBS with the rates `{told.rates}`", style="bold"), table]
    parts += [Text(f"{name}: {move.predicted}", style="dim") for name, move in (("cold", cold), ("warm", warm))]
    parts += [Text(f"✗ {problem}", style="red") for problem in told.problems]
    if not told.problems:
        parts.append(
            Text("✓ both jobs went on as the same process, with the output of an undisturbed run", style="green")
        )
    return Group(*parts)


def _zones(move: Move) -> str:
    return " → ".join(zone.rpartition("-")[2] for zone in move.zones)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _ratio(part: float, whole: float) -> str:
    return f"{part / whole:.2f}" if whole else ""
