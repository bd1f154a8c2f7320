"""`perdure nodes`: the instances that jobs run on, and those that could take one over."""

from __future__ import annotations

import json
from itertools import islice
from typing import Annotated
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from perdure.cli.jobs import PAGE, copy_to_stdout, pages
from perdure.cli.server import Parameters, Server, find_server, get, token_of_environment
from perdure.cli.tables import AsJson, show_json, show_table, when
from perdure.domain.nodes import NodeState

app = typer.Typer(help="Instances, and what fits where.", invoke_without_command=True)


@app.callback()
def nodes(
    context: typer.Context,
    server: Server = "",
    text: Annotated[str, typer.Option("--text", help="Part of an id, a type, a zone or a host name.")] = "",
    state: Annotated[list[NodeState] | None, typer.Option("--state", help="In this state; repeatable.")] = None,
    zone: Annotated[list[str] | None, typer.Option("--zone", help="In this zone; repeatable.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="As many at most.")] = 100,
    csv: Annotated[bool, typer.Option("--csv", help="Finished worker nodes, all of them, as CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the instances that have, or had, an agent."""
    if context.invoked_subcommand is not None:
        return None
    asked = find_server(server, token_of_environment())
    where: Parameters = {"q": text, "zone": zone or []}
    if csv:
        return copy_to_stdout(asked, "/api/v1/nodes.csv", where)
    where = {**where, "state": [str(one) for one in state or []], "sort": "-first_seen_at"}
    found = list(islice(pages(asked, "/api/v1/nodes", where, min(limit, PAGE)), limit))
    if as_json:
        return show_json(found)
    return show_table(
        ["node", "type", "zone", "state", "paid as", "first seen (UTC)", "ended (UTC)", "notice until"],
        (
            (
                *(node["instance_id"], node["instance_type"], node["zone"], node["state"], node["pay_type"]),
                *(when(node["first_seen_at"]), when(node["ended_at"])),
                when(node["notice"]["deadline"]) if node["notice"] else "",
            )
            for node in found
        ),
        "No nodes.",
    )


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
