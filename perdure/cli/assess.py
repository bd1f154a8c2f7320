"""`perdure assess`: what reclaims cost an account in its last days, and what protection would have saved. Read-only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.boto import account_parts
from perdure.cli.tables import AsJson, console, long, show_json, show_table
from perdure.domain.errors import ConfigurationInvalid
from perdure.settings import CommandLineSettings

if TYPE_CHECKING:
    from perdure.account.assessment import Assessment, JobAssessment

_LONGEST_DAYS = 7.0


def assess(
    queue: Annotated[
        list[str] | None, typer.Option("--queue", "-q", help="Of this job queue; may be repeated.")
    ] = None,
    days: Annotated[float, typer.Option(help="How far back; Batch remembers seven days.")] = _LONGEST_DAYS,
    region: Annotated[str | None, typer.Option(help="Else AWS_REGION, or the profile's.")] = None,
    top: Annotated[int, typer.Option(help="How many jobs to show.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Say what Spot reclaims cost this AWS account, and what protection would have saved, job by job.

    Needs nothing but a profile (AWS_PROFILE) that may read Batch, EC2 and ECS; changes nothing, sends nothing anywhere.
    """
    if not 0 < days <= _LONGEST_DAYS:
        raise ConfigurationInvalid(f"--days {days:g}: Batch remembers {_LONGEST_DAYS:g} days")
    with account_parts():
        from perdure.account.asking import Aws
        from perdure.account.assessment import assess as work_out
        from perdure.account.assessment import assumptions
        from perdure.account.history import read_history
    now = datetime.now(UTC)
    found = work_out(
        read_history(Aws(region or CommandLineSettings().aws_region), queue or [], now - timedelta(days=days), now)
    )
    said = assumptions()
    if as_json:
        return show_json(_as_json(found, said))
    _show(found, top)
    console().print("\nWhat this rests on:", style="bold")
    for sentence in said:
        console().print(f"- {sentence}", highlight=False, markup=False)


def _show(found: Assessment, top: int) -> None:
    history = found.history
    span = f"{history.since:%Y-%m-%d %H:%M} to {history.until:%Y-%m-%d %H:%M} UTC, {history.region}"
    console().print(span, style="dim", highlight=False)
    show_table(
        ["job", "name", "queue", ">reclaims", ">lost", ">lost $", ">saved", ">saved $", ""],
        (
            (
                one.job.job_id,
                one.job.name,
                one.job.queue,
                one.reclaims,
                long(one.lost_ms / 1000),
                _dollars(one.lost.micros) + ("*" if one.lost.estimated_micros or one.lost.unpriced_ms else ""),
                long(one.saved_ms / 1000) if one.rescued else "",
                _dollars(one.saved_micros) if one.rescued else "",
                _remark(one),
            )
            for one in found.jobs[:top]
        ),
        "No attempt was ended by a reclaim.",
    )
    if len(found.jobs) > top:
        console().print(f"and {len(found.jobs) - top} more (--top)", style="dim")
    console().print()
    lines = [
        f"{len(history.jobs)} jobs, {found.attempts} attempts; a reclaim ended {found.reclaims} of them, of "
        f"{len(found.jobs)} jobs.",
        f"Lost: {long(found.lost_ms / 1000)} of work, {_dollars(found.lost_micros)}.",
        f"Protection would have saved {long(found.saved_ms / 1000)} and {_dollars(found.saved_micros)}; volumes for "
        f"{found.protectable} protectable jobs would have cost "
        + (
            f"{_dollars(found.volumes.micros)}."
            if not found.volumes.unpriced_ms
            else "something that has no price here."
        ),
        f"Net: {_dollars(found.net_micros)}.",
    ]
    if found.not_rescued:
        lines.append(
            f"{len(found.not_rescued)} jobs more could have been saved, had their retry strategies run them again."
        )
    lines += [f"Not looked at: {right} ({said})" for right, said in sorted(history.refused.items())]
    for line in lines:
        console().print(line, highlight=False, markup=False)


def _remark(one: JobAssessment) -> str:
    if not one.job.protectable:
        return "cannot be protected"
    if not one.rescued:
        return "is not run again"
    return "" if one.instances_known else "instance forgotten"


def _dollars(micros: int) -> str:
    return f"{'-' if micros < 0 else ''}${abs(micros) / 1_000_000:,.2f}"


def _as_json(found: Assessment, said: list[str]) -> dict[str, Any]:
    history = found.history
    return {
        "region": history.region,
        "since": history.since.isoformat(),
        "until": history.until.isoformat(),
        "jobs_seen": len(history.jobs),
        "attempts_seen": found.attempts,
        "reclaims": found.reclaims,
        "lost_seconds": found.lost_ms / 1000,
        "lost_usd": found.lost_micros / 1e6,
        "saved_seconds": found.saved_ms / 1000,
        "saved_usd": found.saved_micros / 1e6,
        "volumes_usd": None if found.volumes.unpriced_ms else found.volumes.micros / 1e6,
        "net_usd": found.net_micros / 1e6,
        "jobs": [
            {
                "id": one.job.job_id,
                "name": one.job.name,
                "queue": one.job.queue,
                "status": one.job.status,
                "reclaims": one.reclaims,
                "lost_seconds": one.lost_ms / 1000,
                "lost_usd": one.lost.micros / 1e6,
                "lost_usd_estimated": one.lost.estimated_micros / 1e6,
                "unpriced_seconds": one.lost.unpriced_ms / 1000,
                "saved_seconds": one.saved_ms / 1000 if one.rescued else 0,
                "saved_usd": one.saved_micros / 1e6 if one.rescued else 0,
                "rescued": one.rescued,
                "remark": _remark(one),
            }
            for one in found.jobs
        ],
        "assumptions": said,
        "refused": history.refused,
    }
