"""`perdure nodes`: the instances that jobs run on, and those that could take one over."""

from __future__ import annotations

import json
from typing import Annotated
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from perdure.cli.server import Server, get

app = typer.Typer(help="Instances, and what fits where.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def compatible(
    job: Annotated[str, typer.Option("--job", help="AWS Batch's job id.")],
    server: Server = "",
    everything: Annotated[bool, typer.Option("--all", help="Also those that do not fit, and what they lack.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the instance types that can restore the job's newest checkpoint, by the CPU features it may rely on."""
    answer = get(server, f"/api/v1/jobs/{quote(job, safe='')}/compatible-instance-types")
    shown = [fit for fit in answer["instance_types"] if everything or fit["fits"]]
    if as_json:
        print(json.dumps({**answer, "instance_types": shown}))
        return
    about = "its node's CPU" if answer["checkpoint"] is None else f"checkpoint {answer['checkpoint']}"
    table = Table("instance type", "fits", "known from", *(["lacks"] if everything else []), box=None)
    for fit in shown:
        lacks = [" ".join(fit["missing"])] if everything else []
        known = "a node of that type" if fit["basis"] == "seen" else f"our table of {answer['table_date']}"
        table.add_row(fit["instance_type"], "yes" if fit["fits"] else "no", known, *lacks)
    console = Console()
    console.print(f"Job {job}, {about}: needs {len(answer['needs'])} CPU features.", highlight=False)
    console.print(table if shown else "No known instance type has them all.")
