"""What the timeline says of a job's change of zone: before it what each way would take, after it what the way took."""

from __future__ import annotations

from datetime import datetime

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from perdure.contracts.migration import MigrationResult
    from perdure.domain.zone_moves import (
        MovePrediction,
        micros_of,
        move_in_words,
        old_zone_way,
        others_in_words,
        predict_move,
        store_way,
        took,
    )
    from workflows.job_state import JobProgress
    from workflows.zone_snapshots import instance_micros

KIND = "migration"


def predict(progress: JobProgress, now: datetime) -> MovePrediction:
    """How a change of zone will go by a snapshot, begun now."""
    assert progress.volume is not None
    return predict_move(progress.zone_snapshots, progress.volume.size_gib, instance_micros(progress, now))


def tell_ways(progress: JobProgress, to_zone: str, now: datetime) -> MovePrediction:
    """The way that is taken and the other two, each with seconds and dollars. The prediction of the one taken."""
    assert progress.volume is not None and progress.configuration is not None
    volume, predicted = progress.volume, predict(progress, now)
    by = f"Volume {volume.volume_id} moves from {volume.zone} to {to_zone} by a snapshot: {move_in_words(predicted)}."
    progress.tell(now, KIND, by)
    hourly = instance_micros(progress, now)
    store = store_way(progress.zone_snapshots, hourly, configured=progress.configuration.store.kind != "none")
    old_zone = old_zone_way(volume.zone, _waited_seconds(progress), hourly, progress.job.attempts_left)
    progress.tell(now, KIND, others_in_words(predicted, store, old_zone))
    return predicted


def tell_outcome(
    progress: JobProgress, moved: MigrationResult, predicted: MovePrediction, seconds: float, now: datetime
) -> None:
    """What the snapshot took, beside what was predicted."""
    steps = ", ".join(f"{name} {length:.1f} s" for name, length in moved.phases.items())
    was = took(seconds, micros_of(instance_micros(progress, now), seconds))
    foreseen = took(predicted.seconds, predicted.micros)
    where = f"{moved.volume.volume_id} in {moved.volume.zone}"
    message = f"The volume is {where} now, after {was}; predicted were {foreseen} ({steps})."
    progress.tell(now, KIND, message)


def _waited_seconds(progress: JobProgress) -> float | None:
    """From the moment at which the job was free to go on elsewhere until this container came; None: not known."""
    outage, current, known = progress.open_outage, progress.current, progress.milestones
    if outage is None or current is None:
        return None
    ready = [outage.started_at, known.final.committed_at if known.final else None, known.available_at]
    free = max(instant for instant in ready if instant is not None)
    return max(0.0, (current.accepted_at - free).total_seconds())
