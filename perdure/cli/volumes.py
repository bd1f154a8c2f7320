"""`perdure volumes`, `perdure volumes delete ID`: the job volumes that exist, what they cost, and until when."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any
from urllib.parse import quote

import typer

from perdure.cli.jobs import PAGE, pages
from perdure.cli.orphans import show_orphans
from perdure.cli.reports import amount
from perdure.cli.server import Parameters, Server, find_server, token_of_environment
from perdure.cli.tables import AsJson, console, long, show_json, show_table, when
from perdure.domain.errors import PerdureError

app = typer.Typer(help="Job volumes, and those that are kept.", invoke_without_command=True)


@app.callback()
def volumes(
    context: typer.Context,
    server: Server = "",
    kept: Annotated[
        bool | None, typer.Option("--kept/--in-use", help="Only those of jobs that are over; or only the others.")
    ] = None,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="Instead: volumes and snapshots in AWS that no job owns.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --orphans: look at AWS now; nothing is deleted.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="As many at most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the job volumes that exist, newest first: whose they are, their age, price and end."""
    if context.invoked_subcommand is not None:
        return
    asked = find_server(server, token_of_environment())
    if dry_run and not orphans:
        raise PerdureError("--dry-run goes with --orphans")
    if orphans:
        show_orphans(asked, dry_run=dry_run, limit=limit, as_json=as_json)
        return
    where: Parameters = {} if kept is None else {"kept": str(kept).lower()}
    found = list(islice(pages(asked, "/api/v1/volumes", where, min(limit, PAGE)), limit))
    totals = asked.get("/api/v1/volumes", {"limit": 1})["totals"]
    if as_json:
        show_json({"items": found, "totals": totals})
        return
    show_table(
        ["volume", "job", "name", "zone", ">GiB", ">age", ">a month", ">so far", "kept until (UTC)"],
        (
            (
                *(one["volume_id"], one["job_id"], one["job_name"], one["zone"], one["size_gib"]),
                *(long(one["age_seconds"]), amount(one["usd_per_month"], "USD"), amount(one["cost_usd"], "USD")),
                _end(one),
            )
            for one in found
        ),
        "No volumes.",
    )
    if found:
        console().print(f"\n{_together(totals)}", style="dim", highlight=False, markup=False)


def _end(volume: dict[str, Any]) -> str:
    """When it is deleted, as a table shows it."""
    if volume["kept_since"] is None:
        return f"the job's end ({volume['job_state']})"
    return when(volume["kept_until"]) or "somebody deletes it"


def _together(totals: dict[str, Any]) -> str:
    said = f"{totals['volumes']} volumes, {totals['size_gib']} GiB: {amount(totals['usd_per_month'], 'USD')} a month; "
    said += f"{totals['kept']} of jobs that are over: {amount(totals['kept_usd_per_month'], 'USD')}."
    return said + (f" No price is known for {totals['unpriced']}." if totals["unpriced"] else "")


@app.command()
def delete(
    volume_id: Annotated[str, typer.Argument(metavar="VOLUME", help="The volume's id, `vol-…`.")],
    server: Server = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a kept volume, with the checkpoints on it: its job cannot be resumed any more."""
    asked = find_server(server, token_of_environment())
    if not yes and not typer.confirm(f"Delete {volume_id} and the checkpoints on it for good?"):
        raise PerdureError(f"{volume_id} was not deleted")
    gone = asked.ask("DELETE", f"/api/v1/volumes/{quote(volume_id, safe='')}", limit_seconds=60).json()
    console().print(f"{volume_id} of job {gone['job_id']} is deleted.", highlight=False, markup=False)
