"""How command lines show what they got: tables for people, JSON for programs, and values as people write them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

LONGEST_UNBROKEN = 48
"""Columns: an id of Batch's has 36; an array's child a few more."""

AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


def show_json(value: Any) -> None:
    """One JSON document."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def show_table(headings: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table without lines; `>` before a heading: numbers, to the right. Texts come from strangers: no markup, no
    control characters. Ids and other words are never broken, whatever the terminal's width: people copy them."""
    cells = [[_cell(value) for value in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, *column in zip(headings, *cells, strict=True):
        name = heading.removeprefix(">")
        longest = max(len(word) for text in (name, *map(str, column)) for word in text.split() or [""])
        justify: JustifyMethod = "right" if heading.startswith(">") else "left"
        table.add_column(name, justify=justify, overflow="fold", min_width=min(longest, LONGEST_UNBROKEN))
    for row in cells:
        table.add_row(*row)
    console().print(table if table.row_count else Text(empty, style="dim"), crop=False)


def show_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line; what is None or empty is left out."""
    shown = [(name, value) for name, value in fields if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        console().print(Text(f"{name:>{width}}  ", style="dim") + _cell(value), soft_wrap=True)


def console() -> Console:
    """Standard output. To a file or pipe it is as wide as need be, so that no value is cut."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=400)


def _cell(value: object) -> Text:
    text = "" if value is None else str(value)
    printable = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return Text(printable, style=_STYLES.get(text, ""))


_STYLES = {
    "Succeeded": "green",
    "Restore Succeeded": "green",
    "Checkpoint Succeeded": "green",
    "Failed": "red",
    "Restore Failed": "red",
    "Checkpoint Failed": "red",
    "error": "red",
    "warning": "yellow",
    "Running": "cyan",
}


def when(instant: str | None) -> str:
    """`2026-03-01 12:00:00`, UTC; empty for none."""
    return datetime.fromisoformat(instant).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if instant else ""


def long(seconds: float | None) -> str:
    """A length of time as people say it: `4.2 s`, `12 min 05 s`, `3 h 20 min`, `2 d 4 h`."""
    if seconds is None:
        return ""
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 60:
        return f"{sign}{seconds:.1f} s"
    if seconds < 3600:
        return f"{sign}{seconds // 60:.0f} min {seconds % 60:02.0f} s"
    if seconds < 86_400:
        return f"{sign}{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    return f"{sign}{seconds // 86_400:.0f} d {seconds % 86_400 // 3600:.0f} h"


def size(count: int | None) -> str:
    """Bytes in binary units: `1.5 GiB`."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
