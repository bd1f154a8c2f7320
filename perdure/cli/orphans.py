"""`perdure volumes --orphans`: what no job owns in AWS, what it costs, and what deleting it has saved."""

from __future__ import annotations

from itertools import islice
from typing import Any

from perdure.cli.jobs import PAGE, pages
from perdure.cli.reports import amount
from perdure.cli.server import ApiServer
from perdure.cli.tables import console, show_json, show_table, size, when

ORPHANS = "/api/v1/volumes/orphans"


def show_orphans(server: ApiServer, *, dry_run: bool, limit: int, as_json: bool) -> None:
    """As the hourly look found them; `dry_run`: as AWS shows them now. Nothing is deleted by either."""
    if dry_run:
        answer = server.ask("POST", f"{ORPHANS}/search", limit_seconds=60).json()
        found, totals = answer["items"][:limit], answer["totals"]
    else:
        found = list(islice(pages(server, ORPHANS, {}, min(limit, PAGE)), limit))
        totals = server.get(ORPHANS, {"limit": 1})["totals"]
    if as_json:
        show_json({"items": found, "totals": totals})
        return
    show_table(
        ["orphan", "job", "where", ">size", ">a month", "found (UTC)", "deleted from (UTC)", "why"],
        (
            (
                *(one["resource_id"], one["job_id"], one["place"], size(one["size_bytes"])),
                *(amount(one["usd_per_month"], "USD"), when(one["found_at"]), when(one["deletes_at"]) or "never"),
                f"{one['reason']}; {one['refusal']}" if one["refusal"] else one["reason"],
            )
            for one in found
        ),
        "No orphans.",
    )
    console().print(f"\n{_together(totals, dry_run)}", style="dim", highlight=False, markup=False)


def _together(totals: dict[str, Any], dry_run: bool) -> str:
    said = f"{totals['found']} orphans, {size(totals['found_bytes']) or '0 B'}: "
    said += f"{amount(totals['found_usd_per_month'], 'USD')} a month; {totals['kept']} of them are never deleted."
    if dry_run:
        return f"{said} Nothing was deleted."
    said += f" Deleted so far: {totals['deleted']}, {size(totals['deleted_bytes']) or '0 B'}, which saves "
    said += f"{amount(totals['saved_usd_per_month'], 'USD')} a month."
    return said + (f" No price is known for {totals['unpriced']}." if totals["unpriced"] else "")
