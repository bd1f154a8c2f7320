"""The picture of docs/performance.md: how long it takes until a checkpoint is durable, by the size of the job. No
library draws it: some lines and points."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from html import escape

from bench.dataplane.report import Calls

_WAYS = {"ours": "#0f62fe", "first": "#6929c4", "today": "#da1e28", "criu": "#8d8d8d", "podman": "#b28600"}
_WORDS = {
    "ours": "shares pages with the one before",
    "first": "a first one",
    "today": "written whole by CRIU, checksums, manifest",
    "criu": "CRIU and a sync alone",
    "podman": "podman's export",
}
_WIDTH, _HEIGHT, _LEFT, _TOP, _BETWEEN = 340, 240, 60, 50, 90
Point = tuple[float, float]


def svg(calls: Calls) -> str:
    """Final checkpoints of text, 5 % changed in pieces: on the disk as it is, and on one of 125 MiB/s."""
    panels = [_panel(calls, "free", "disk as it is", 0), _panel(calls, "gp3", "disk of 125 MiB/s", 1)]
    width, height = 2 * (_WIDTH + _BETWEEN), _TOP + _HEIGHT + 60 + 20 * len(_WAYS)
    legend = "".join(
        f'<circle cx="{_LEFT + 5}" cy="{_TOP + _HEIGHT + 58 + 20 * place}" r="5" fill="{colour}"/>'
        f'<text x="{_LEFT + 18}" y="{_TOP + _HEIGHT + 62 + 20 * place}">{escape(_WORDS[way])}</text>'
        for place, (way, colour) in enumerate(_WAYS.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"'
        f' font-size="13"><rect width="100%" height="100%" fill="white"/>{"".join(panels)}{legend}</svg>\n'
    )


def _points(calls: Calls, disk: str, way: str) -> list[Point]:
    """(GiB, median seconds until durable), by size."""
    found: dict[float, list[float]] = {}
    for name, results in calls.items():
        load, size, *_ = name.split()
        if load == "text" and name.endswith(f"GiB, 5 % pieces, {disk}, final") and float(size) >= 1:
            found.setdefault(float(size), []).extend(one["durable"] for one in results if one["way"] == way)
    return sorted((size, statistics.median(values)) for size, values in found.items() if values)


def _panel(calls: Calls, disk: str, title: str, place: int) -> str:
    lines = {way: points for way in _WAYS if (points := _points(calls, disk, way))}
    largest = max((size for points in lines.values() for size, _ in points), default=1.0)
    longest = max((seconds for points in lines.values() for _, seconds in points), default=1.0) * 1.05
    left = _LEFT + place * (_WIDTH + _BETWEEN)

    def at(point: Point) -> Point:
        return left + point[0] / largest * _WIDTH, _TOP + _HEIGHT - point[1] / longest * _HEIGHT

    return "".join(
        [
            f'<text x="{left}" y="{_TOP - 18}" font-weight="bold">Seconds until durable, {escape(title)}</text>',
            *_axes(at, left, largest, longest),
            *(
                f'<polyline fill="none" stroke="{_WAYS[way]}" stroke-width="2" points="'
                + " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, points))
                + '"/>'
                + "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_WAYS[way]}"/>' for x, y in map(at, points))
                for way, points in lines.items()
            ),
        ]
    )


def _axes(at: Callable[[Point], Point], left: float, largest: float, longest: float) -> Iterator[str]:
    bottom = _TOP + _HEIGHT
    yield f'<path d="M{left},{_TOP}V{bottom}H{left + _WIDTH}" stroke="black" fill="none"/>'
    for size in range(1, int(largest) + 1):
        x, _ = at((size, 0))
        yield f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{size} GiB</text>'
    step = next(one for one in (1, 2, 5, 10, 20, 50, 100, 1000) if longest / one <= 6)
    for seconds in range(0, int(longest) + 1, step):
        _, y = at((0, seconds))
        yield f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{seconds}</text>'
        yield f'<path d="M{left},{y:.1f}h{_WIDTH}" stroke="#ddd"/>'
