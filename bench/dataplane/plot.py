"""The pictures of docs/performance.md: what a checkpoint and a restore take, by the size of the job. No library draws
them: some lines and points."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from bench.dataplane.report import Calls

_SAVES = {
    "ours": ("#0f62fe", "shares pages with the one before"),
    "first": ("#6929c4", "a first one"),
    "whole": ("#da1e28", "written whole by CRIU, checksums, manifest"),
    "criu": ("#8d8d8d", "CRIU and a sync alone"),
    "podman": ("#b28600", "podman's export"),
}
_RESTORES = {
    "restore lazy": ("#0f62fe", "lazy"),
    "restore warm": ("#6929c4", "whole, from the page cache"),
    "restore tmpfs": ("#8d8d8d", "CRIU alone, out of tmpfs"),
}
_FREE, _SLOW = "disk as it is", "disk of 125 MiB/s"
_WIDTH, _HEIGHT, _LEFT, _TOP = 340, 200, 60, 50
_ACROSS, _DOWN, _LEGEND = _WIDTH + 90, _HEIGHT + 90, 20
Point = tuple[float, float]


@dataclass(frozen=True)
class _Panel:
    """One picture: `key` of the results of the calls whose names end so, in units of `unit`."""

    title: str
    key: str
    ends: str
    ways: Mapping[str, tuple[str, str]]
    unit: float = 1.0


_FINAL = "GiB, 5 % pieces, free, final", "GiB, 5 % pieces, gp3, final"
_PANELS = (
    _Panel(f"Seconds until durable, {_FREE}", "durable", _FINAL[0], _SAVES),
    _Panel(f"Seconds until durable, {_SLOW}", "durable", _FINAL[1], _SAVES),
    _Panel(f"Seconds frozen, {_FREE}", "frozen", _FINAL[0], _SAVES),
    _Panel(f"Seconds frozen, {_SLOW}", "frozen", _FINAL[1], _SAVES),
    _Panel("GiB written", "written", _FINAL[0], _SAVES, 1 << 30),
    _Panel("MiB of the page sink", "helper_mib", _FINAL[0], _SAVES),
    _Panel("Seconds until a restored job goes on", "durable", "GiB, 5 % pieces, free, periodic", _RESTORES),
)


def svg(calls: Calls) -> str:
    """Jobs of text, 5 % changed in pieces: final checkpoints, and restores."""
    panels = "".join(_draw(calls, panel, *_place(number)) for number, panel in enumerate(_PANELS))
    left, top = _place(len(_PANELS))
    words = [("Checkpoints", _SAVES), ("Restores", _RESTORES)]
    width, height = 2 * _ACROSS, _TOP + (len(_PANELS) + 2) // 2 * _DOWN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"'
        f' font-size="13"><rect width="100%" height="100%" fill="white"/>{panels}{"".join(_legend(words, left, top))}'
        "</svg>\n"
    )


def _place(number: int) -> tuple[float, float]:
    return _LEFT + number % 2 * _ACROSS, _TOP + number // 2 * _DOWN


def _legend(words: Sequence[tuple[str, Mapping[str, tuple[str, str]]]], left: float, top: float) -> Iterator[str]:
    for title, ways in words:
        yield f'<text x="{left}" y="{top}" font-weight="bold">{escape(title)}</text>'
        for colour, said in ways.values():
            top += _LEGEND
            yield f'<circle cx="{left + 5}" cy="{top - 4}" r="5" fill="{colour}"/>'
            yield f'<text x="{left + 18}" y="{top}">{escape(said)}</text>'
        top += 2 * _LEGEND


def _points(calls: Calls, panel: _Panel, way: str) -> list[Point]:
    """(GiB, median), by size."""
    found: dict[float, list[float]] = {}
    for name, results in calls.items():
        load, size, *_ = name.split()
        if load == "text" and name.endswith(panel.ends) and float(size) >= 1:
            values = [one[panel.key] / panel.unit for one in results if one["way"] == way and one.get(panel.key)]
            found.setdefault(float(size), []).extend(values)
    return sorted((size, statistics.median(values)) for size, values in found.items() if values)


def _draw(calls: Calls, panel: _Panel, left: float, top: float) -> str:
    lines = {way: points for way in panel.ways if (points := _points(calls, panel, way))}
    largest = max((size for points in lines.values() for size, _ in points), default=1.0)
    most = max((value for points in lines.values() for _, value in points), default=1.0) * 1.05

    def at(point: Point) -> Point:
        return left + point[0] / largest * _WIDTH, top + _HEIGHT - point[1] / most * _HEIGHT

    title = f'<text x="{left}" y="{top - 18}" font-weight="bold">{escape(panel.title)}</text>'
    drawn = (_line([at(point) for point in points], panel.ways[way][0]) for way, points in lines.items())
    return "".join([title, *_axes(at, left, top + _HEIGHT, largest, most), *drawn])


def _line(places: list[Point], colour: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in places)
    return f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"/>{dots}'


def _axes(at: Callable[[Point], Point], left: float, bottom: float, largest: float, most: float) -> Iterator[str]:
    yield f'<path d="M{left},{bottom - _HEIGHT}V{bottom}H{left + _WIDTH}" stroke="black" fill="none"/>'
    for size in range(1, int(largest) + 1):
        x, _ = at((size, 0))
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{size} GiB</text>'
    step = next(one for one in (1, 2, 5, 10, 20, 50, 100, 1000) if most / one <= 6)
    for value in range(0, int(most) + 1, step):
        _, y = at((0, value))
        yield f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value}</text>'
        yield f'<path d="M{left},{y:.1f}h{_WIDTH}" stroke="#ddd"/>'
