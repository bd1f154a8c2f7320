"""Time limits and retries of the activities that workflows call, each with its reason. Durations in seconds.

A time-out means unknown, never failed: whoever catches one looks for evidence before saying that something is lost.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TypedDict

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from perdure.domain.errors import NOT_RETRYABLE


ATTACH_PATIENCE = timedelta(seconds=20)
"""How long `attach` waits before it answers WAIT: an update that waits longer blocks continue-as-new."""
NODE_PATIENCE = timedelta(seconds=30)
"""How long a node's queue may leave a checkpoint that a person wants lying; nobody serves it then."""
NODE_PATIENCE_ON_NOTICE = timedelta(seconds=10)
"""The same for a final checkpoint: two minutes are left, and asking again is cheap."""

PERSON_WAITS = RetryPolicy(
    initial_interval=timedelta(milliseconds=500),
    maximum_interval=timedelta(seconds=5),
    non_retryable_error_types=NOT_RETRYABLE,
)
"""How AWS and the records are asked again for a person, or a job, that waits for the answer."""
SILENCE = timedelta(seconds=15)
"""Without a beat for so long, the control worker is gone, or cut off: another begins the activity anew. All of its
activities beat each three seconds (activities/beating.py)."""

RENEW_AFTER = 100
"""Events after which a job's workflow continues as new, if Temporal does not suggest it earlier. That costs six events.
Until then each cycle stays in the control worker's memory (docs/scale.md), and a job that is not kept there is read
from its history at each event. A start and a few cycles stay in one history; so does a reclaim."""
RENEW_STANDING_AFTER = 500
"""The same while no container of the job runs: a reclaim stays in the history in which it began."""

LOG_PATIENCE = timedelta(seconds=8)
"""The same for a person who waits for logs."""


class Options(TypedDict, total=False):
    """Keyword arguments of an activity call."""

    schedule_to_close_timeout: timedelta
    schedule_to_start_timeout: timedelta
    start_to_close_timeout: timedelta
    heartbeat_timeout: timedelta
    retry_policy: RetryPolicy


class LocalOptions(TypedDict, total=False):
    """The same of a local activity, which has no heartbeat."""

    schedule_to_close_timeout: timedelta
    start_to_close_timeout: timedelta
    retry_policy: RetryPolicy


_ONCE = RetryPolicy(maximum_attempts=1)
_PATIENT = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(seconds=15),
    non_retryable_error_types=NOT_RETRYABLE,
)

# A look at Batch. Given up after a minute; whoever asks has a timer of its own and asks again.
LOOK = Options(
    start_to_close_timeout=timedelta(seconds=30),
    schedule_to_close_timeout=timedelta(seconds=60),
    heartbeat_timeout=SILENCE,
    retry_policy=PERSON_WAITS,
)

# A container waits for this one: better the values known before than a late start.
CONFIGURATION = Options(
    start_to_close_timeout=timedelta(seconds=5),
    schedule_to_close_timeout=timedelta(seconds=10),
    retry_policy=PERSON_WAITS,
)

# A record, written inside the workflow task that changed something: one event instead of six. The task waits for it, so
# it is tried once and briefly; what fails or takes long is written by an ordinary activity.
RECORD_AT_ONCE = LocalOptions(
    start_to_close_timeout=timedelta(seconds=1), schedule_to_close_timeout=timedelta(seconds=2), retry_policy=_ONCE
)

# Records must be written in the end, however long the database is away.
SURELY = Options(start_to_close_timeout=timedelta(seconds=30), retry_policy=_PATIENT)

# Volume calls poll until the volume is in the wanted state. Given up after two minutes: the workflow then asks Batch
# whether the job still goes on, and asks again.
VOLUME = Options(
    start_to_close_timeout=timedelta(minutes=2),
    schedule_to_close_timeout=timedelta(minutes=2),
    heartbeat_timeout=SILENCE,
    retry_policy=PERSON_WAITS,
)

# Begun, not waited for, and never urgent: given up soon, because the next checkpoint asks again.
ZONE_SNAPSHOT = Options(
    start_to_close_timeout=timedelta(seconds=60), schedule_to_close_timeout=timedelta(seconds=90), retry_policy=_PATIENT
)

# Never urgent, and EC2 allows few changes of one volume: what it refuses three times is refused, and told.
GROW = Options(
    start_to_close_timeout=timedelta(seconds=60),
    schedule_to_close_timeout=timedelta(seconds=90),
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=2), maximum_attempts=3, non_retryable_error_types=NOT_RETRYABLE
    ),
)

# The same: AWS ends the instance in any case.
LEAVE = GROW

# Before a move, for its prediction: a job waits.
GLANCE = Options(
    start_to_close_timeout=timedelta(seconds=5), schedule_to_close_timeout=timedelta(seconds=5), retry_policy=_ONCE
)

# The same on the way to another zone, which is never given up: a snapshot of a large volume takes hours, and a volume
# that a live instance has mounted is not let go of at all.
MOVE = Options(start_to_close_timeout=timedelta(hours=2), heartbeat_timeout=SILENCE, retry_policy=PERSON_WAITS)

# The same where a person waits for the end of a finished job: what is left then is the reconciler's.
CLEAN_UP = Options(
    start_to_close_timeout=timedelta(minutes=30),
    schedule_to_close_timeout=timedelta(minutes=30),
    heartbeat_timeout=timedelta(seconds=60),
    retry_policy=_PATIENT,
)


# It waits in the node's queue while the agent is away, which costs the history nothing.
NODE_SETTINGS = Options(
    start_to_close_timeout=timedelta(seconds=10),
    schedule_to_close_timeout=timedelta(hours=1),
    retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=60)),
)


# All instances, or all quiet jobs, by pages. Given up in time for the next look.
RECONCILE = Options(
    start_to_close_timeout=timedelta(minutes=2),
    schedule_to_close_timeout=timedelta(minutes=2),
    heartbeat_timeout=timedelta(seconds=60),
    retry_policy=_PATIENT,
)

# Some calls to AWS per instance type and zone. Given up after ten minutes: the next look asks again.
PRICES = Options(
    start_to_close_timeout=timedelta(minutes=10),
    schedule_to_close_timeout=timedelta(minutes=10),
    heartbeat_timeout=timedelta(seconds=90),
    retry_policy=_PATIENT,
)

# A batch of ledgers, one short transaction each; it must be done in the end.
LEDGERS = Options(
    start_to_close_timeout=timedelta(minutes=5), heartbeat_timeout=timedelta(seconds=60), retry_policy=_PATIENT
)


def hear_notice(left: timedelta) -> Options:
    """Until the instance goes: an agent that is being replaced hears it when it is back."""
    return Options(
        start_to_close_timeout=timedelta(seconds=5),
        schedule_to_close_timeout=max(left, timedelta(seconds=5)),
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=10)),
    )


def requested_checkpoint(limit: timedelta) -> Options:
    """Tried once: whoever wished for it is told, and wishes again."""
    return Options(
        schedule_to_start_timeout=NODE_PATIENCE,
        start_to_close_timeout=limit,
        heartbeat_timeout=timedelta(seconds=15),
        retry_policy=_ONCE,
    )


def final_checkpoint(limit: timedelta) -> Options:
    """Tried once: asked again, it joins what runs."""
    return Options(
        schedule_to_start_timeout=NODE_PATIENCE_ON_NOTICE,
        start_to_close_timeout=limit,
        heartbeat_timeout=timedelta(seconds=5),
        retry_policy=_ONCE,
    )
