"""Was this job resumed, as which job, and who may take its checkpoints for that? Only the control worker writes it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import or_, update
from sqlmodel import Session, col, delete, select

from perdure.domain.errors import NotResumable
from perdure.domain.store_costs import StoreUse
from perdure.domain.values import Frozen
from perdure.records.costs.ledger import lock_job
from perdure.records.costs.store_uses import add_uses, newest_held
from perdure.records.jobs.events import add_line
from perdure.records.jobs.ledger_refresh import refresh_ledger
from perdure.records.schema.log_tables import ResumptionRow
from perdure.records.schema.tables import JobRow, VolumeRow

LONGEST_LINE = 20
"""Jobs in a row, each resumed from the one before, whose checkpoints may lie on one volume or under one name."""

_TAKEN = "taken by the job that goes on"
"""Key of the use that ends what the old job holds in a store."""
_PLACE = {"store", "region"}


class Resumption(Frozen):
    """Written before the new job is submitted (`new_job_id` is None until Batch has said it). `epoch` is the old job's
    last. `volume_id` is empty where the checkpoints lie in a store. `taken_at`: when the new job got them. UTC."""

    job_id: str
    request_id: str
    job_name: str
    new_job_id: str | None = None
    checkpoint: int
    volume_id: str
    epoch: int
    asked_by: str = ""
    asked_at: datetime
    taken_at: datetime | None = None


def of_job(session: Session, job_id: str) -> Resumption | None:
    """How this job was resumed, if it was."""
    row = session.get(ResumptionRow, job_id)
    return Resumption.model_validate(row.model_dump()) if row is not None else None


def begin(session: Session, resumption: Resumption) -> None:
    """A new job is about to be submitted. Replaces one that came to nothing. NotResumable: the volume, or what a store
    has of it, is being deleted or was; the control worker that deletes it locks the job as well, so one of the two is
    first."""
    lock_job(session, resumption.job_id)
    if not resumption.volume_id:
        _refuse_if_the_store_forgets(session, resumption.job_id)
    ours = (col(VolumeRow.job_id) == resumption.job_id, col(VolumeRow.volume_id) == resumption.volume_id)
    ends = (col(VolumeRow.ending_at).is_not(None), col(VolumeRow.deleted_at).is_not(None))
    if session.exec(select(VolumeRow.volume_id).where(*ours, or_(*ends))).first() is not None:
        raise NotResumable(
            f"Volume {resumption.volume_id} with the checkpoint of job {resumption.job_id} is being deleted: its time"
            " was over, or somebody deleted it."
        )
    session.merge(ResumptionRow(**resumption.model_dump()))


def _refuse_if_the_store_forgets(session: Session, job_id: str) -> None:
    offered = (col(JobRow.stored).is_not(None), col(JobRow.stored_ending_at).is_(None))
    if session.exec(select(JobRow.job_id).where(col(JobRow.job_id) == job_id, *offered)).first() is None:
        raise NotResumable(f"The checkpoints of job {job_id} are being deleted from the store: their time was over.")


def drop(session: Session, job_id: str) -> None:
    """Nothing was submitted after all."""
    session.execute(delete(ResumptionRow).where(col(ResumptionRow.job_id) == job_id))


def submitted(session: Session, job_id: str, new_job_id: str, message: str, at: datetime) -> None:
    """Batch has taken the new job. The old one's timeline says so; its workflow is over and adds no line any more."""
    lock_job(session, job_id)
    changed = (
        update(ResumptionRow)
        .where(col(ResumptionRow.job_id) == job_id, col(ResumptionRow.new_job_id).is_(None))
        .values(new_job_id=new_job_id)
    )
    if session.execute(changed).rowcount == 0:  # type: ignore[attr-defined]
        return
    add_line(session, job_id, at, "resumed", message)


def taken(session: Session, resumption: Resumption, at: datetime) -> StoreUse | None:
    """The new job has the volume, or the checkpoints in the store, which from now on are not the old one's cost. What
    lies in the store, as the new job's: None if nobody told. Told twice: once."""
    at = resumption.taken_at or at
    held = newest_held(session, resumption.job_id, but=_TAKEN)
    theirs = None if held is None else StoreUse(**held.model_dump(include=_PLACE), use_id=_TAKEN, at=at, held_bytes=0)
    if resumption.taken_at is None:
        session.execute(update(ResumptionRow).where(col(ResumptionRow.job_id) == resumption.job_id).values(taken_at=at))
        session.execute(
            update(VolumeRow)
            .where(
                col(VolumeRow.job_id) == resumption.job_id,
                col(VolumeRow.volume_id) == resumption.volume_id,
                col(VolumeRow.deleted_at).is_(None),
            )
            .values(deleted_at=at)
        )
        session.flush()
        add_uses(session, resumption.job_id, [theirs] if theirs else [])
        refresh_ledger(session, resumption.job_id, at)  # it has cost until now
    if held is None:
        return None
    return StoreUse(**held.model_dump(include=_PLACE), use_id="inherited", at=at, held_bytes=held.held_bytes)


def line_of(session: Session, job_id: str) -> list[str]:
    """The job and those that it goes on from, newest first."""
    found = [job_id]
    while len(found) < LONGEST_LINE:
        before = session.exec(select(ResumptionRow.job_id).where(ResumptionRow.new_job_id == found[-1])).first()
        if before is None or before in found:
            break
        found.append(before)
    return found
