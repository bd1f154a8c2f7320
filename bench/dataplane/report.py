"""The tables of docs/performance.md, out of the results of all calls."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Result = dict[str, Any]
Calls = dict[str, list[Result]]
"""By the call's name: the results of all its runs, each with the number of its `run`."""
_CHANGED = (1, 5, 20, 100)
_VOLUMES = {
    "m6i.large, EBS baseline, 81 MiB/s": 81.0,
    "gp3, 125 MiB/s": 125.0,
    "gp3, 500 MiB/s": 500.0,
    "gp3, 1,000 MiB/s": 1000.0,
    "io2 Block Express, 4,000 MiB/s": 4000.0,
}
"""MiB/s. Source: Amazon EBS user guide, "Amazon EBS volume types"; EC2 user guide, EBS-optimized instances."""
_NETWORKS = {
    "S3 over 0.78 Gbit/s (m6i.large, baseline)": 93.0,
    "S3 over 5 Gbit/s": 596.0,
    "S3 over 12.5 Gbit/s": 1490.0,
    "directory that takes 100 MiB/s": 100.0,
    "directory that takes 500 MiB/s (EFS, one client)": 500.0,
}
"""MiB/s. Source: EC2 user guide, network performance by instance type; EFS user guide, quotas per client."""
_OVERHEAD, _NOTICE = 20.0, 120.0
"""Seconds: until a notice is seen, the dump's set-up, ending the container and freeing its volume; the notice."""


def read(path: Path) -> tuple[Calls, list[Result]]:
    """The results, and on which machines."""
    calls: Calls = defaultdict(list)
    machines = []
    for number, line in enumerate(path.read_text().splitlines()):
        call = json.loads(line)
        calls[call["name"]] += [{**one, "run": number} for one in call["results"]]
        machines.append({**call["machine"], "name": call["name"]})
    return calls, machines


def report(path: Path, out: Callable[[str], None]) -> None:
    """Medians, ratios within rounds, and the goals."""
    calls, machines = read(path)
    first = machines[0]
    out(f"{first['cpu']}, {first['memory']}, Linux {first['kernel']}, CRIU {first['criu']}, runc {first['runc']},")
    out(f"Python {first['python']}; load {', '.join(one['load'] for one in machines)}; {first['date'][:10]}.\n")
    out("| job | way | n | frozen s | durable s | written MiB | helper MiB | ours is faster: durable, frozen |")
    out("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, results in calls.items():
        for way in dict.fromkeys(one["way"] for one in results):
            out(_row(name, way, results))
    out("\n| figure | measured | must | aim |\n| --- | --- | --- | --- |")
    for figure, measured, must, aim in goals(calls):
        out(f"| {figure} | {measured} | {must} | {aim} |")
    stores = path.with_name("store.json")
    notice_table(calls, json.loads(stores.read_text()) if stores.exists() else {}, out)


def notice_table(calls: Calls, sending: dict[str, float], out: Callable[[str], None]) -> None:
    """How large a job may be to fit into a notice, by arithmetic: the memory is read at the measured speed, and what
    changed is written at the volume's own. Into a store, all of it is cut and hashed besides, by one thread, and what
    changed is sent at the network's speed, or at what one processor sends. `sending`: bench.store's seconds per GiB."""
    ours = [one for one in calls.get("text 4 GiB, 5 % pieces, free, final", []) if one["way"] == "ours"]
    if not ours:
        return
    reading = statistics.median(one["frozen"] / (one["image"] / 2**30) for one in ours)
    out(f"\nReading takes {reading:.2f} s for each GiB (4 GiB, disk as it is). GiB of a job that fit:\n")
    out(f"| volume | {' | '.join(f'{part} % changed' for part in _CHANGED)} |")
    out("| --- |" + " ---: |" * len(_CHANGED))
    for name, rate in _VOLUMES.items():
        fit = [(_NOTICE - _OVERHEAD) / (reading + 1024 * part / 100 / rate) for part in _CHANGED]
        out(f"| {name} | {' | '.join(f'{gib:.0f}' for gib in fit)} |")
    if not sending:
        return
    through = sending["perdure again"]
    for name, rate in _NETWORKS.items():
        each = max(1024 / rate, sending["perdure"] - through)
        fit = [(_NOTICE - _OVERHEAD) / (reading + through + part / 100 * each) for part in _CHANGED]
        out(f"| {name} | {' | '.join(f'{gib:.0f}' for gib in fit)} |")


def _row(name: str, way: str, results: list[Result]) -> str:
    those = [one for one in results if one["way"] == way]
    ratios = {key: paired(results, way, "ours", key) for key in ("durable", "frozen")}
    said = ", ".join(f"{statistics.median(found):.2f}" for found in ratios.values() if found and way != "ours")
    fields = [_median(those, "frozen"), _median(those, "durable"), _median(those, "written", 1 << 20, 0)]
    return f"| {name} | {way} | {len(those)} | {' | '.join(fields)} | {_median(those, 'helper_mib', 1, 0)} | {said} |"


def _median(those: list[Result], key: str, unit: float = 1, digits: int = 2) -> str:
    values = [one[key] / unit for one in those if one.get(key) is not None]
    return f"{statistics.median(values):.{digits}f}" if values else ""


def paired(results: list[Result], one: str, other: str, key: str) -> list[float]:
    """Ratios of two ways, each within one round of one run."""
    by_round = {(found["run"], found["round"]): found for found in results if found["way"] == other}
    return [
        found[key] / by_round[found["run"], found["round"]][key]
        for found in results
        if found["way"] == one and key in found and key in by_round.get((found["run"], found["round"]), {})
    ]


def goals(calls: Calls) -> Iterator[tuple[str, str, str, str]]:
    """Figure, measured (empty: no call measured it), must, aim."""

    def ratio(name: str, one: str, other: str, key: str = "durable") -> str:
        return _said(paired(calls.get(name, []), one, other, key))

    slow, free = "text 4 GiB, 5 % pieces, gp3", "text 4 GiB, 5 % pieces, free"
    small = "text 1 GiB, 5 % pieces, free"
    series = "text 1 GiB, 1 % scattered, free, periodic"
    yield "final, 4 GiB, gp3: whole / ours, durable", ratio(f"{slow}, final", "whole", "ours"), "≥ 6", "≥ 12"
    yield "final, 4 GiB: podman / ours, durable", ratio(f"{free}, final", "podman", "ours"), "≥ 10", "≥ 20"
    for name in (f"{small}, final", f"{free}, final", f"{slow}, final"):
        yield f"first / criu and sync, durable, {name}", ratio(name, "first", "criu"), "≤ 1.1", "≤ 0.7"
    frozen = ratio(f"{slow}, periodic", "ours", "whole", "frozen")
    yield "periodic, 4 GiB, gp3: ours / whole, frozen", frozen, "≤ 0.15", "≤ 0.1"
    frozen = ratio(f"{small}, periodic", "ours", "whole", "frozen")
    yield "periodic, 1 GiB: ours / whole, frozen", frozen, "≤ 1.1", "≤ 0.2"
    yield "written / changed, 1 GiB, in pieces", _written(calls.get(f"{small}, final", []), 51.2), "≤ 1.5", "≤ 1.1"
    yield "fifteenth / second of a series, durable", _series(calls.get(series, [])), "≤ 1.3", "≤ 1.1"
    cold = ratio(series, "restore cold", "restore cold whole")
    yield "cold restore: shared / whole, after the series", cold, "≤ 1.25", "≤ 1.1"
    for way in ("cold", "cold apart", "cold lazy", "warm", "lazy"):
        again = ratio(series, f"restore {way}", "restore tmpfs")
        yield f"restore {way} / CRIU out of tmpfs", again, "≤ 1.3", "≤ 0.3 lazy"
    yield "GiB in a notice, gp3, 5 % changed (arithmetic)", _in_a_notice(calls), "≥ 60", "≥ 120"
    largest = [one["helper_mib"] for name in calls if " 4 GiB" in name for one in calls[name] if "helper_mib" in one]
    yield "memory of the page sink at 4 GiB, MiB", str(max(largest, default="")), "≤ 768", "≤ 256"


def _said(found: list[float]) -> str:
    if not found:
        return ""
    between = f" ({min(found):.2f} to {max(found):.2f}, n = {len(found)})" if len(found) > 1 else " (n = 1)"
    return f"{statistics.median(found):.2f}{between}"


def _written(results: list[Result], changed_mib: float) -> str:
    return _said([one["written"] / (changed_mib * 2**20) for one in results if one["way"] == "ours"])


def _series(results: list[Result]) -> str:
    ours = {one["round"]: one["durable"] for one in results if one["way"] == "ours"}
    return f"{ours[15] / ours[2]:.2f}" if {2, 15} <= ours.keys() else ""


def _in_a_notice(calls: Calls) -> str:
    """A straight line through 1 and 4 GiB."""
    points = {}
    for gib in (1, 4):
        those = calls.get(f"text {gib} GiB, 5 % pieces, gp3, final", [])
        points[gib] = [one["durable"] for one in those if one["way"] == "ours"]
    if not all(points.values()):
        return ""
    small, large = (statistics.median(points[gib]) for gib in (1, 4))
    each = (large - small) / 3
    return f"{(_NOTICE - _OVERHEAD - (small - each)) / each:.0f}"
