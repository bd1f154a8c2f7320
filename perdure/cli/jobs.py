"""`perdure jobs`, `perdure job ID`, `perdure resume ID`: jobs as a server knows them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any
from urllib.parse import quote

import typer

from perdure.cli.server import ApiServer, Parameters, Server, find_server, token_of_environment
from perdure.cli.tables import AsJson, console, long, show_fields, show_json, show_table, size, when
from perdure.domain.jobs import JobOrder, JobState

PAGE = 200
JobId = Annotated[str, typer.Argument(metavar="JOB", help="AWS Batch's job id.")]
Queue = Annotated[list[str] | None, typer.Option("--queue", "-q", help="Of this job queue; repeatable.")]


def jobs(
    server: Server = "",
    text: Annotated[str, typer.Argument(help="Part of an id, a name or a queue.")] = "",
    queue: Queue = None,
    status: Annotated[list[JobState] | None, typer.Option("--status", "-s", help="In this state; repeatable.")] = None,
    since: Annotated[str, typer.Option(help="Created then or later: 2026-03-01, or 2026-03-01T12:00:00Z.")] = "",
    until: Annotated[str, typer.Option(help="Created earlier.")] = "",
    sort: Annotated[JobOrder, typer.Option(help="`-`: the largest first.")] = JobOrder.NEWEST,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="As many at most.")] = 50,
    csv: Annotated[bool, typer.Option("--csv", help="All of them, as CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    asked = find_server(server, token_of_environment())
    where: Parameters = {
        "q": text,
        "queue": queue or [],
        "status": [str(state) for state in status or []],
        "created_after": instant(since),
        "created_before": instant(until),
        "sort": str(sort),
    }
    if csv:
        return copy_to_stdout(asked, "/api/v1/jobs.csv", where)
    found = list(islice(pages(asked, "/api/v1/jobs", where, min(limit, PAGE)), limit))
    if as_json:
        return show_json(found)
    headings = ["job", "name", "queue", "state", "created", ">protections", ">checkpoints", ">attempts left"]
    show_table(
        headings,
        (
            (
                *(job["job_id"], job["name"], job["queue"], job["state"], when(job["created_at"])),
                *(job["protections"], job["checkpoints_committed"], job["attempts_left"]),
            )
            for job in found
        ),
        "No jobs.",
    )


def job(job_id: JobId, server: Server = "", as_json: AsJson = False) -> None:
    """Show one job: how it stands, what would happen to it, and its timeline."""
    asked = find_server(server, token_of_environment())
    path = f"/api/v1/jobs/{quote(job_id, safe='')}"
    found = asked.get(path)
    found["events"] = [*_earlier_events(asked, path, found["events"]), *found["events"]]
    if as_json:
        return show_json(found)
    show_fields(_facts(found))
    if found["alerts"]:
        console().print()
        show_table(["alert", ""], ((alert["level"], alert["message"]) for alert in found["alerts"]), "")
    if found["attempts"]:
        console().print()
        show_table(
            [">attempt", ">epoch", "node", "zone", "began", "ended", "from checkpoint", "how it ended"],
            (
                (
                    *(one["attempt"], one["epoch"], one["instance_id"], one["zone"]),
                    *(when(one["started_at"] or one["accepted_at"]), when(one["ended_at"])),
                    *(_went_on_from(one), one["end"]),
                )
                for one in found["attempts"]
            ),
            "",
        )
    if found["outages"]:
        console().print()
        show_table(
            ["outage", "began", ">stood still", ">work lost", "in it"],
            (
                (
                    *(one["kind"], when(one["started_at"]), long(one["seconds"]), long(one["work_lost_seconds"])),
                    ", ".join(f"{name} {long(seconds)}" for name, seconds in one["phases"].items()),
                )
                for one in found["outages"]
            ),
            "",
        )
    console().print()
    show_table(
        ["time (UTC)", "", "what happened"],
        (
            (when(line["at"]), "" if line["level"] == "info" else line["level"], line["message"])
            for line in found["events"]
        ),
        "Nothing has happened yet.",
    )


def resume(
    job_id: JobId,
    server: Server = "",
    key: Annotated[str, typer.Option(help="The same key never submits twice; for scripts that try again.")] = "",
    as_json: AsJson = False,
) -> None:
    """Submit a new Batch job that goes on from the kept checkpoint of one that ended."""
    asked = find_server(server, token_of_environment())
    headers = {"Idempotency-Key": key} if key else {}
    done = asked.ask("POST", f"/api/v1/jobs/{quote(job_id, safe='')}/resume", headers=headers, limit_seconds=90).json()
    if as_json:
        return show_json(done)
    print(done["job_id"])
    for remark in done["remarks"]:
        print(remark, file=sys.stderr)


def pages(asked: ApiServer, path: str, where: Parameters, size: int) -> Iterator[Any]:
    """Every entry of a list, page by page."""
    cursor: str | None = None
    while True:
        page = asked.get(path, {**where, "limit": size, "cursor": cursor})
        yield from page["items"]
        cursor = page["next"]
        if cursor is None:
            return


def copy_to_stdout(asked: ApiServer, path: str, where: Parameters) -> None:
    """The answer as it comes, however long it is."""
    with asked.stream("GET", path, where, limit_seconds=300) as answer:
        for text in answer.iter_text():
            sys.stdout.write(text)


def instant(text: str) -> str:
    """A date is the begin of that day, UTC."""
    return f"{text}T00:00:00Z" if len(text) == 10 else text


def _earlier_events(asked: ApiServer, path: str, known: list[Any]) -> Iterator[Any]:
    last, first = 0, known[0]["sequence"] if known else 0
    while last < first - 1:
        page = asked.get(f"{path}/events", {"after": last, "limit": min(PAGE, first - 1 - last)})
        if not page:
            return
        yield from page
        last = page[-1]["sequence"]


def _went_on_from(attempt: dict[str, Any]) -> object:
    """The number of a checkpoint, or why there is none."""
    if attempt["restored_from"] is not None:
        return attempt["restored_from"]
    if attempt["started_at"] is not None:
        return "clean start"
    return "not started yet" if attempt["ended_at"] is None else "did not start"


def _rehearsal(found: dict[str, Any] | None) -> str:
    """`checkpoint 3 passed, 12 min 05 s ago`; empty: there was none."""
    if found is None:
        return ""
    ago = long((datetime.now(UTC) - datetime.fromisoformat(found["at"])).total_seconds())
    reason = f": {found['reason']}" if found["reason"] else ""
    return f"checkpoint {found['number']} {found['verdict']}, {ago} ago{reason}"


def _budget(budget: dict[str, Any] | None) -> str:
    if budget is None:
        return ""
    said = f"about {budget['seconds']:.0f} s of a notice's {budget['notice_seconds']:.0f} s, {budget['colour']}"
    return f"{said}: {budget['advice']}" if budget["advice"] else said


def _facts(found: dict[str, Any]) -> list[tuple[str, object]]:
    every = found["interval_seconds"]
    return [
        ("job", found["job_id"]),
        ("name", found["name"]),
        ("queue", found["queue"]),
        ("state", found["state"]),
        ("AWS Batch says", found["batch_status"]),
        ("exit code", found["exit_code"]),
        ("asked for", f"{found['vcpus'] or '?'} vCPUs, {found['memory_mib'] or '?'} MiB"),
        ("created", when(found["created_at"])),
        ("finished", when(found["finished_at"])),
        ("run time", long(found["run_seconds"])),
        ("as Batch counts it", long(found["batch_run_seconds"])),
        ("unprotected", found["unprotected"]),
        ("protections", found["protections"]),
        ("checkpoints", f"{found['checkpoints_committed']}, {found['checkpoint_failures']} failed"),
        ("rehearsal", _rehearsal(found["rehearsal"])),
        ("every", (f"{long(every)} ({found['interval_source']})" if every else "never") if every is not None else ""),
        ("a final checkpoint", _budget(found["budget"])),
        ("volume", " in ".join(filter(None, (found["volume_id"], found["volume_zone"])))),
        ("root file system", size(found["max_rootfs_bytes"])),
        ("not rolled back", ", ".join(found["shared_mounts"])),
        ("attempts left", found["attempts_left"]),
        ("time left", long(found["timeout_left_seconds"])),
        *(("retries", verdict["message"]) for verdict in found["verdicts"]),
    ]
