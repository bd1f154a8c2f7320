"""`perdure demo`: two real jobs through reclaims, in one zone and across zones, compared with uninterrupted runs. With
`--scenario cross-zone`: one job changes its zone cold, one warm."""

from __future__ import annotations

import json
import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from localcloud.cli import ContainerEngine
from localcloud.demo.jobs import MOST_RECLAIMS
from localcloud.stack.stack import DEFAULT_BASE, StackPlace

DEMO_STACK = "demo"


class Scenario(StrEnum):
    """The choices of `--scenario`."""

    RECLAIMS = "reclaims"
    CROSS_ZONE = "cross-zone"


def command(
    as_json: Annotated[bool, typer.Option("--json", help="End with one line for programs.")] = False,
    engine: Annotated[
        ContainerEngine, typer.Option(help="What runs the containers: runc alone, or a dockerd on each node.")
    ] = ContainerEngine.RUNC,
    reclaims: Annotated[int, typer.Option(min=1, max=MOST_RECLAIMS, help="Of each job; fewer are sooner done.")] = 3,
    store: Annotated[
        str, typer.Option("--store", help="Keep checkpoints in `s3`, or in this directory, and not on job volumes.")
    ] = "",
    scenario: Annotated[
        Scenario, typer.Option(help="cross-zone: one job moves cold, one warm, on EBS as slow as EBS.")
    ] = Scenario.RECLAIMS,
    rates: Annotated[
        str, typer.Option(metavar="NAME", help="cross-zone: how slow EBS is (docs/local-faults.md).")
    ] = "documented",
    seed: Annotated[int, typer.Option(help="cross-zone: of what is drawn.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running.")] = False,
    stack: Annotated[str, typer.Option("--stack", envvar="PERDURE_STACK", help="Name of the stack.")] = DEMO_STACK,
    base: Annotated[Path, typer.Option("--base", envvar="PERDURE_LOCAL_DIR", hidden=True)] = DEFAULT_BASE,
) -> None:
    """Run two real jobs through reclaims and compare what they leave with uninterrupted runs.

    Takes some minutes. Exit code 0 only if every promise held.
    """
    from rich.console import Console

    if scenario is Scenario.CROSS_ZONE:
        _cross_zone(StackPlace(stack, base), keep, as_json, rates, seed)
        return
    from localcloud.demo.display import everything
    from localcloud.demo.show import run_demo

    progress = Console(stderr=True, highlight=False)
    # A service manager's stop is as good as Ctrl-C: the stack must go in both cases.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    place = StackPlace(stack, base)
    told = run_demo(place, keep, progress, engine.value, reclaims, store)
    ok = all(each.verdict.ok for each in told)
    out = progress if as_json else Console(highlight=False)
    out.print(everything([(each.verdict, each.page, each.title) for each in told]))
    if keep:
        progress.print(f"The stack runs on; stop it with `perdure local down --stack {stack}`.")
    if as_json:
        print(json.dumps({"ok": ok, "jobs": [each.verdict.as_json() for each in told]}))
    else:
        out.print("\n[bold green]Every promise held.[/]" if ok else "\n[bold red]Not every promise held.[/]")
    if not ok:
        raise typer.Exit(1)


def _cross_zone(place: StackPlace, keep: bool, as_json: bool, rates: str, seed: int) -> None:
    from rich.console import Console

    from localcloud.demo.cross_zone import run_cross_zone
    from localcloud.demo.cross_zone_page import page
    from localcloud.demo.display import Display

    progress = Console(stderr=True, highlight=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    told = run_cross_zone(place, keep, Display(progress), rates, seed)
    (progress if as_json else Console(highlight=False)).print(page(told))
    if as_json:
        print(json.dumps(told.as_json()))
    if told.problems:
        raise typer.Exit(1)
