"""Volumes that jobs left behind: whose each is, when its time is over, and that it is gone.

The jobs' workflows are over, so only the control worker writes here.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, Update, update
from sqlalchemy import select as plain_select
from sqlmodel import Session, col

from perdure.domain.errors import UnknownVolume, VolumeInUse
from perdure.domain.values import Frozen
from perdure.records.costs.ledger import lock_job
from perdure.records.jobs.changes import take_positions
from perdure.records.jobs.events import add_line
from perdure.records.jobs.ledger_refresh import refresh_ledger
from perdure.records.schema.log_tables import ResumptionRow
from perdure.records.schema.tables import CheckpointRow, JobRow, VolumeRow


class KeptVolume(Frozen):
    """A volume that exists, and its job. `finished_at` (UTC), None: the job is not over. `successor`: a job that was
    submitted to go on from it and has not taken it yet, or an empty string while which one is not known."""

    volume_id: str
    job_id: str
    finished_at: datetime | None
    successor: str | None


def find_volume(session: Session, volume_id: str) -> KeptVolume:
    """The volume, with the job that it belongs to now. UnknownVolume: no record of one that exists."""
    found = _read(session, _existing().where(col(VolumeRow.volume_id) == volume_id))
    if not found:
        raise UnknownVolume(f"There is no volume {volume_id[:40]!r} in Perdure's records, or it was deleted already")
    return found[0]


def volumes_past_their_time(
    session: Session, kept_seconds: float, now: datetime, after: str, limit: int
) -> list[KeptVolume]:
    """At most `limit` of those whose job has been over for `kept_seconds`, by id, those above `after`."""
    over = col(JobRow.finished_at) < now - timedelta(seconds=kept_seconds)
    query = _existing().where(over, col(VolumeRow.volume_id) > after)
    return _read(session, query.order_by(col(VolumeRow.volume_id)).limit(limit))


def claim(session: Session, volume: KeptVolume, at: datetime) -> None:
    """From now on this volume is being deleted, and `resumptions.begin` refuses to resume from it. Raises VolumeInUse
    when a resumption came since `volume` was read. Either this or that is first: both lock the job."""
    lock_job(session, volume.job_id)
    now = find_volume(session, volume.volume_id)
    if now != volume:
        raise VolumeInUse(f"{volume.volume_id} is needed: job {volume.job_id} has just been resumed from it.")
    session.execute(_row_of(volume).values(ending_at=at))


def release(session: Session, volume: KeptVolume) -> None:
    """It was not deleted after all: jobs can be resumed from it again."""
    session.execute(_row_of(volume).values(ending_at=None))


def _row_of(volume: KeptVolume) -> Update:
    mine = (col(VolumeRow.job_id) == volume.job_id, col(VolumeRow.volume_id) == volume.volume_id)
    return update(VolumeRow).where(*mine, col(VolumeRow.deleted_at).is_(None))


def removed(session: Session, volume: KeptVolume, message: str, at: datetime) -> None:
    """The volume is gone: it costs nothing from now on, its checkpoints are offered no longer, and the job's timeline
    says so. Told twice: once."""
    lock_job(session, volume.job_id)
    gone = _row_of(volume).values(deleted_at=at)
    if session.execute(gone).rowcount == 0:  # type: ignore[attr-defined]
        return
    session.execute(update(CheckpointRow).where(col(CheckpointRow.job_id) == volume.job_id).values(offered=False))
    session.flush()
    refresh_ledger(session, volume.job_id, at)
    position = take_positions(session, 1)[0]
    session.execute(
        update(JobRow)
        .where(col(JobRow.job_id) == volume.job_id)
        .values(volume_id=None, volume_zone=None, position=position)
    )
    add_line(session, volume.job_id, at, "volume", message)


def _existing() -> Select[Any]:
    """Not yet deleted ones. One that a resumed job took is that job's, and not its predecessor's any more."""
    columns: list[Any] = [
        *(col(VolumeRow.volume_id), col(VolumeRow.job_id), col(JobRow.finished_at)),
        *(col(ResumptionRow.job_id), col(ResumptionRow.new_job_id)),
    ]
    return (
        plain_select(*columns)
        .join(JobRow, col(JobRow.job_id) == col(VolumeRow.job_id))
        .outerjoin(
            ResumptionRow,
            (col(ResumptionRow.job_id) == col(VolumeRow.job_id))
            & (col(ResumptionRow.volume_id) == col(VolumeRow.volume_id))
            & col(ResumptionRow.taken_at).is_(None),
        )
        .where(col(VolumeRow.deleted_at).is_(None))
    )


def _read(session: Session, query: Select[Any]) -> list[KeptVolume]:
    return [
        KeptVolume(
            volume_id=volume_id,
            job_id=job_id,
            finished_at=finished_at,
            successor=None if resumed is None else new_job_id or "",
        )
        for volume_id, job_id, finished_at, resumed, new_job_id in session.execute(query)
    ]
