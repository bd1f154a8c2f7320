"""One log out of those of several containers: what a restore undid was printed again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from perdure.domain.checkpoints import Checkpoint, CheckpointKind
from perdure.domain.jobs import Attempt


def undone_after(attempts: Sequence[Attempt], checkpoints: Sequence[Checkpoint]) -> dict[int, datetime]:
    """By epoch: from when on what that container printed does not count, because the job went on from before.

    An instant to the second or so: lines bear the time at which the instance took them, and what the job had printed
    until its freeze may be taken until it runs again. Perdure itself cuts by bytes (promise 1); this is for people who
    read CloudWatch's copy.
    """
    frozen = {one.number: one for one in checkpoints}
    begun = [one for one in attempts if one.started_at is not None]
    found: dict[int, datetime] = {}
    for place, later in enumerate(begun):
        kept = frozen.get(later.restored_from) if later.restored_from is not None else None
        for earlier in begun[:place]:
            if kept is None:
                since = earlier.accepted_at
            elif kept.epoch > earlier.epoch or (kept.epoch == earlier.epoch and kept.kind is CheckpointKind.FINAL):
                continue  # it went on from a later point, or from where that container was stopped for good
            else:
                since = kept.frozen_at + timedelta(seconds=kept.phases.get("frozen", 0.0))
            found[earlier.epoch] = min(since, found.get(earlier.epoch, since))
    return found
