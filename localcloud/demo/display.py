"""What people see of the demo: lines and a live table while it runs, a timeline for each job at its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from localcloud.demo.stack_user import Look
from localcloud.demo.verdict import Verdict
from perdure.domain.jobs import JobState
from perdure.domain.outages import PHASES

PICTURE_WIDTH = 56
REDRAWS_PER_SECOND = 4
BAR_WIDTH = 24
LONGEST_STATE = max(len(state) for state in JobState)
ZONE_WIDTH = len("us-east-1a")
INSTANCE_ID_WIDTH = len("i-0123456789abcdef0")
WIDE, MIDDLING = 120, 96
"""Columns of the terminal from which on the bar and the instance have room."""


class Display:
    """Lines on stderr, and on a terminal a table below them that moves. Used by several threads."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._looks: dict[str, Look] = {}
        self._shown: dict[str, tuple[object, ...]] = {}
        self._live: Live | None = None

    def add(self, name: str) -> None:
        """One more job to show."""
        self._looks[name] = Look()

    def watch(self) -> None:
        """Begin to show the jobs."""
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._table, console=self._console, refresh_per_second=REDRAWS_PER_SECOND)
            self._live.start()

    def still(self) -> None:
        """Stop moving; what was shown last stays."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def busy(self, what: str) -> AbstractContextManager[object]:
        """As long as the block takes, a terminal shows that something goes on."""
        return self._console.status(what)

    def tell(self, who: str, line: str) -> None:
        """One line, with the seconds since the demo began."""
        # Not under our lock: the console has its own, and the live table takes them in the other order.
        elapsed = f"{time.monotonic() - self._begun:6.1f} s"
        self._console.print(Text.assemble((elapsed, "dim"), "  ", (f"{who:<10}", "cyan"), line), soft_wrap=True)

    def show(self, name: str, seen: Look) -> None:
        """A job as it is now; without a terminal, a line when something has changed that matters."""
        with self._lock:
            if not seen.running:  # nobody can read how far it is while it moves
                known = self._looks.get(name, seen).progress
                seen = replace(seen, progress=1.0 if seen.batch_status == "SUCCEEDED" else known)
            self._looks[name] = seen
        state = "Running" if seen.running else seen.state or seen.batch_status
        news = (state, seen.node, int(seen.progress * 5) if seen.running else 0)
        if self._live is not None or news == self._shown.get(name):
            return
        self._shown[name] = news
        where = f" on {seen.node} in {seen.zone}" if seen.node else ""
        how_far = f", {seen.progress:.0%} done, {seen.committed} checkpoints" if seen.running else ""
        self.tell(name, f"{state}{where}{how_far}")

    def _table(self) -> RenderableType:
        """As wide as the longest state needs it to be, so that nothing jumps. What has no room is left out."""
        table = Table(box=None, pad_edge=False)
        drawn, with_node = self._console.width >= WIDE, self._console.width >= MIDDLING
        for column, width in (
            ("job", 0),
            *((("", BAR_WIDTH),) if drawn else ()),
            ("done", 0),
            ("state", LONGEST_STATE),
            ("zone", ZONE_WIDTH),
            *((("node", INSTANCE_ID_WIDTH),) if with_node else ()),
            ("checkpoints", 0),
            ("survived", 0),
        ):
            table.add_column(column, header_style="dim", min_width=width, no_wrap=True)
        with self._lock:
            looks = dict(self._looks)
        for name, seen in looks.items():
            table.add_row(
                name,
                *([ProgressBar(total=1.0, completed=seen.progress, width=BAR_WIDTH)] if drawn else []),
                f"{seen.progress:.0%}",
                Text(seen.state or seen.batch_status, style=_style(seen)),
                seen.zone or "",
                *([seen.node or ""] if with_node else []),
                str(seen.committed),
                str(seen.protections),
            )
        return table


def _style(seen: Look) -> str:
    if seen.state in {"Succeeded", "Running", "Restore Succeeded", "Checkpoint Succeeded"}:
        return "green"
    return "red" if "Failed" in seen.state else "yellow"


def report(verdict: Verdict, page: dict[str, Any], title: str) -> RenderableType:
    """One job's timeline: a picture of its life, a column per reclaim, what did not hold."""
    seen = verdict.outcome
    parts: list[RenderableType] = [Text(f"\n{seen.name}: {title}", style="bold"), Text(seen.job_id, style="dim")]
    drawn = picture(page)
    if drawn:
        parts.append(Text(drawn))
    parts.append(_outages(verdict))
    parts += [Text(f"✗ {problem}", style="red") for problem in verdict.problems]
    if verdict.ok:
        reclaims = "1 reclaim" if seen.protections == 1 else f"{seen.protections} reclaims"
        kept = f"{reclaims} survived, output identical, "
        parts.append(Text(f"✓ {kept}{_seconds(verdict.work_lost_seconds)} s of work done again", style="green"))
    return Group(*parts)


def _outages(verdict: Verdict) -> Table:
    """A column for each reclaim: seconds of each phase, of the outage in all, and of work done again."""
    seen = verdict.outcome
    outages = seen.outages
    kinds = {sighting.epoch: str(sighting.kind) for sighting in seen.sightings}
    moves = [f"{before} → {_short(after)}" for before, after in zip(seen.zones, seen.zones[1:], strict=False)]
    moves += [""] * (len(outages) - len(moves))
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    for _ in outages:
        table.add_column(justify="right")
    table.add_row("reclaim", *(kinds.get(outage.epoch, outage.kind) for outage in outages))
    table.add_row("zone", *moves[: len(outages)])
    for phase in (phase for phase in PHASES if any(phase in outage.phases for outage in outages)):
        table.add_row(phase, *(_seconds(outage.phases.get(phase)) for outage in outages))
    table.add_row("outage, seconds", *(_seconds(outage.seconds) for outage in outages), style="bold")
    table.add_row("work done again", *(_seconds(outage.work_lost_seconds) for outage in outages))
    table.add_row(
        "went on from", *("" if outage.seconds is None else _from(outage.restored_from) for outage in outages)
    )
    return table


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _short(zone: str) -> str:
    """`1b` of `us-east-1b`: the region stands beside it already."""
    return zone.rpartition("-")[2]


def _from(number: int | None) -> str:
    return "a clean start" if number is None else f"checkpoint {number}"


def picture(page: dict[str, Any]) -> str:
    """The job's life as one line: it ran (━), it stood still (·); nothing when times are missing."""
    attempts, end = page.get("attempts") or [], page.get("finished_at")
    begin = attempts[0].get("started_at") if attempts else None
    if not begin or not end:
        return ""
    first, last = _instant(begin), _instant(end)
    width = max((last - first).total_seconds(), 0.001)
    cells = ["━"] * PICTURE_WIDTH
    for outage in page.get("outages") or []:
        if outage.get("ended_at"):
            places = [
                int((_instant(outage[name]) - first).total_seconds() / width * PICTURE_WIDTH)
                for name in ("started_at", "ended_at")
            ]
            for place in range(max(0, places[0]), min(PICTURE_WIDTH, max(places[1], places[0] + 1))):
                cells[place] = "·"
    return f"{''.join(cells)}  {width:.0f} s, ··· still"


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def everything(verdicts: Sequence[tuple[Verdict, dict[str, Any], str]]) -> RenderableType:
    """All reports, one after the other."""
    return Group(*(report(verdict, page, title) for verdict, page, title in verdicts))
