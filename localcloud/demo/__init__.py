"""`perdure demo`: two real jobs through reclaims, in one zone and across zones, compared with uninterrupted runs."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from localcloud.cli import ContainerEngine
from localcloud.demo.jobs import MOST_RECLAIMS
from localcloud.stack.stack import DEFAULT_BASE, StackPlace

DEMO_STACK = "demo"


def command(
    as_json: Annotated[bool, typer.Option("--json", help="End with one line for programs.")] = False,
    engine: Annotated[
        ContainerEngine, typer.Option(help="What runs the containers: runc alone, or a dockerd on each node.")
    ] = ContainerEngine.RUNC,
    reclaims: Annotated[int, typer.Option(min=1, max=MOST_RECLAIMS, help="Of each job; fewer are sooner done.")] = 3,
    store: Annotated[
        str, typer.Option("--store", help="Keep checkpoints in `s3`, or in this directory, and not on job volumes.")
    ] = "",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running.")] = False,
    stack: Annotated[str, typer.Option("--stack", envvar="PERDURE_STACK", help="Name of the stack.")] = DEMO_STACK,
    base: Annotated[Path, typer.Option("--base", envvar="PERDURE_LOCAL_DIR", hidden=True)] = DEFAULT_BASE,
) -> None:
    """Run two real jobs through reclaims and compare what they leave with uninterrupted runs.

    Takes some minutes. Exit code 0 only if every promise held.
    """
    from rich.console import Console

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
