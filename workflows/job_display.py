"""What the Temporal UI shows of a job: current details (markdown) and search attributes. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from temporalio.common import SearchAttributeKey, SearchAttributeUpdate

from perdure.domain.jobs import JobState, Outage
from workflows.job_state import JobProgress, Stage

_STATE = SearchAttributeKey.for_keyword("PerdureState")
_QUEUE = SearchAttributeKey.for_keyword("PerdureQueue")
_ZONE = SearchAttributeKey.for_keyword("PerdureZone")
_NODE = SearchAttributeKey.for_keyword("PerdureNode")
_PROTECTIONS = SearchAttributeKey.for_int("PerdureProtections")
_ATTEMPT = SearchAttributeKey.for_int("PerdureAttempt")
_LAST_CHECKPOINT = SearchAttributeKey.for_datetime("PerdureLastCheckpoint")

_KEYS: dict[str, SearchAttributeKey[Any]] = {
    key.name: key for key in (_STATE, _QUEUE, _ZONE, _NODE, _PROTECTIONS, _ATTEMPT, _LAST_CHECKPOINT)
}
LONGEST_KEYWORD = 255


def search_attributes(progress: JobProgress) -> list[SearchAttributeUpdate[Any]]:
    """The changes since the last call. Each upsert is an event in the history, so a periodic checkpoint changes none:
    its time goes along with the next real change. Nor does a state that passes by itself."""
    job, current = progress.job, progress.current
    state = job.state
    if state is JobState.RESTORE_FAILED:
        state = JobState.RUNNING if progress.stage is Stage.RUNNING else JobState.RESTORING
    elif (
        (state is JobState.CHECKPOINTING and progress.notice is None)
        or state is JobState.RESTORE_SUCCEEDED
        or progress.passing
    ):
        state = JobState.RUNNING
    wanted: dict[str, str | int] = {_STATE.name: state.value, _PROTECTIONS.name: job.protections}
    if job.queue:
        wanted[_QUEUE.name] = job.queue[:LONGEST_KEYWORD]
    if current is not None:
        wanted[_ZONE.name] = current.zone[:LONGEST_KEYWORD]
        wanted[_NODE.name] = current.instance_id[:LONGEST_KEYWORD]
        wanted[_ATTEMPT.name] = current.attempt
    changed = {name: value for name, value in wanted.items() if progress.attributes.get(name) != value}
    if not changed:
        return []
    progress.attributes |= changed
    updates = [_KEYS[name].value_set(value) for name, value in changed.items()]
    if job.checkpoints:
        updates.append(_LAST_CHECKPOINT.value_set(job.checkpoints[-1].frozen_at))
    return updates


def details(progress: JobProgress) -> str:
    """Where the job stands, for a person who opens its workflow."""
    job, current = progress.job, progress.current
    lines = [f"**{job.state}** — `{job.name or job.job_id}`" + (f" in queue `{job.queue}`" if job.queue else "")]
    if current is not None:
        restored = f", restored from checkpoint {current.restored_from}" if current.restored_from is not None else ""
        lines.append(f"- attempt {current.attempt} on `{current.instance_id}` in {current.zone}{restored}")
    if job.checkpoints:
        newest = job.checkpoints[-1]
        lines.append(f"- newest checkpoint: {newest.number} ({newest.kind}), frozen at {_clock(newest.frozen_at)}")
    lines.append(f"- checkpoints: {job.checkpoints_committed}, failed: {job.checkpoint_failures}")
    lines.append(f"- reclaims survived: {job.protections}")
    if job.volume_id:
        lines.append(f"- volume `{job.volume_id}` in {job.volume_zone}")
    if job.outages:
        lines += ["", "| outage | kind | began | seconds | work lost (s) | phases |", "|---|---|---|---|---|---|"]
        lines += [_row(number, outage) for number, outage in enumerate(job.outages, start=1)]
    return "\n".join(lines)


def _row(number: int, outage: Outage) -> str:
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in outage.phases.items())
    lasted = "…" if outage.seconds is None else f"{outage.seconds:.1f}"
    lost = "" if outage.work_lost_seconds is None else f"{outage.work_lost_seconds:.1f}"
    return f"| {number} | {outage.kind} | {_clock(outage.started_at)} | {lasted} | {lost} | {phases} |"


def _clock(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"
