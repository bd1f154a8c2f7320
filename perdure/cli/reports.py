"""`perdure report`, `perdure queues`: what jobs cost and what protecting them saved."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from perdure.cli.jobs import copy_to_stdout, instant
from perdure.cli.server import Server, find_server, token_of_environment
from perdure.cli.tables import AsJson, console, show_json, show_table, when

Since = Annotated[str, typer.Option(help="From then on: 2026-03-01, or 2026-03-01T12:00:00Z.")]
Until = Annotated[str, typer.Option(help="Up to then.")]

MONEY = {"total_cost": "cost", "net_savings": "protection saved", "on_demand_savings_cost": "Spot saved"}


def report(
    server: Server = "",
    since: Since = "",
    until: Until = "",
    queue: Annotated[str, typer.Option("--queue", "-q", help="Of this job queue only.")] = "",
    job: Annotated[str, typer.Option("--job", help="Of this job only, over its whole life.")] = "",
    formulas: Annotated[bool, typer.Option(help="Say how each figure is counted.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="A line per queue, and all together, as CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show totals: costs, savings, checkpoints, restores; beside each figure the one MMBatch would show."""
    asked = find_server(server, token_of_environment())
    span = {"start": instant(since), "end": instant(until)}
    if csv:
        return copy_to_stdout(asked, "/api/v1/report.csv", span)
    found = asked.get("/api/v1/report", {**span, "queue": queue, "job": job})
    if as_json:
        return show_json(found)
    console().print(_span(found), style="dim", highlight=False, markup=False)
    group = None
    rows: list[tuple[object, ...]] = []
    for metric in found["metrics"]:
        if metric["group"] != group:
            rows += [("", "", "", "")] if rows else []
            group = metric["group"]
        naive = metric["naive"]
        rows.append(
            (
                metric["title"],
                amount(metric["value"], metric["unit"]) + ("*" if metric["estimated_share"] else ""),
                amount(naive["value"], metric["unit"]) if naive else "",
                metric["formula"] if formulas else "",
            )
        )
    headings = ["metric", ">value", ">naive", *(["formula"] if formulas else [])]
    show_table(headings, (row[: len(headings)] for row in rows), "Nothing was counted.")
    if found["unprotected"]:
        console().print()
        show_table(
            [">unprotected", ">running", "why", "for example"],
            (
                (one["jobs"], one["running"], one["reason"], ", ".join(one["job_ids"][:2]))
                for one in found["unprotected"]
            ),
            "",
        )
    console().print(f"\n{found['remark']}", style="dim", highlight=False, markup=False)
    return None


def queues(server: Server = "", since: Since = "", until: Until = "", as_json: AsJson = False) -> None:
    """List job queues: what they submitted, what runs, what it cost and saved."""
    asked = find_server(server, token_of_environment())
    found = asked.get("/api/v1/queues", {"start": instant(since), "end": instant(until)})
    if as_json:
        return show_json(found)
    return show_table(
        ["queue", ">submitted", ">running", ">protections", *(f">{title}" for title in MONEY.values())],
        (
            (
                queue["queue"] or "(not known yet)",
                queue["jobs_submitted"],
                queue["jobs_running"],
                amount(queue["metrics"]["spot_protections"]["value"], "count"),
                *(amount(queue["metrics"][name]["value"], "USD") for name in MONEY),
            )
            for queue in found
        ),
        "No queue has submitted a job yet.",
    )


def amount(value: float | None, unit: str) -> str:
    """As people write it."""
    if value is None:
        return ""
    if unit == "USD":
        return f"-${-value:,.4f}" if value < 0 else f"${value:,.4f}"
    if unit == "hours":
        return f"{value:,.3f} h"
    if unit == "share":
        return f"{value:.1%}"
    return f"{value:,.0f}"


def _span(found: dict[str, Any]) -> str:
    span = found["span"]
    since, until = when(span["start"]) or "the beginning", when(span["end"]) or "now"
    what = f"job {span['job_id']}" if span["job_id"] else f"queue {span['queue']}" if span["queue"] else "all jobs"
    return f"{what}, from {since} to {until}" + (" (whole minutes, hours or days)" if span["widened"] else "")
