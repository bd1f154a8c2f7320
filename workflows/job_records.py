"""Keeps the Temporal UI and the records in step with what the workflow knows, in the background.

A record is written at once, then not again for a second: changes are gathered meanwhile. In a quiet life it is a local
activity, one event in the task that changed something anyway. No final checkpoint waits for a database: on a notice,
and while the database is slow or away, an ordinary activity writes it, and what a notice changes is written two seconds
later: where AWS takes back many nodes at once, first all their jobs join their final checkpoints.
"""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, FailureError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts.control import JobRecord, RecordActivities
    from perdure.domain.jobs import JobState
    from workflows import job_display, options
    from workflows.job_state import JobProgress

SHOWN_FOR = timedelta(seconds=20)
"""How long people see that a restore went well, or that a checkpoint failed, before the job simply runs."""
GATHERED_FOR = timedelta(seconds=1)
"""Between two records of one job."""
JOINED_WITHIN = timedelta(seconds=2)
"""How long a notice waits for its record."""


class JobRecorder:
    """Follows one job. Its coroutines run as long as the workflow does."""

    def __init__(self, progress: JobProgress) -> None:
        self._progress = progress
        self._shown = 0
        self._stamped = progress.recorded_revision
        self._written_at: datetime | None = None
        self._notice_id = ""
        """The notice that a record has waited for already."""
        self._database_lags = False

    @property
    def up_to_date(self) -> bool:
        """The records know all there is."""
        return self._progress.recorded_revision == self._progress.revision

    def _stamp(self) -> None:
        """When the job last changed. Both coroutines wake in the very task that changed it."""
        if self._stamped != self._progress.revision:
            self._stamped = self._progress.revision
            self._progress.note(changed_at=workflow.now())

    async def keep_passing(self) -> None:
        """A state that tells how something went is shown for a while, until the job simply runs."""
        while True:
            await workflow.wait_condition(lambda: self._progress.passing)
            await self._let_pass(self._progress.job.state)

    async def _let_pass(self, state: JobState) -> None:
        try:
            await workflow.wait_condition(
                lambda: self._progress.job.state is not state or not self._progress.passing,
                timeout=SHOWN_FOR,
                timeout_summary=f"people see: {state}",
            )
        except TimeoutError:
            self._progress.show(state=JobState.RUNNING)

    async def keep_shown(self) -> None:
        """Current details and search attributes, once per change."""
        while True:
            await workflow.wait_condition(lambda: self._progress.revision != self._shown)
            self._shown = self._progress.revision
            self._stamp()
            workflow.set_current_details(job_display.details(self._progress))
            if changes := job_display.search_attributes(self._progress):
                workflow.upsert_search_attributes(changes)

    async def keep_recorded(self) -> None:
        """The database, however long it is away; timeline lines wait until it has them."""
        while True:
            await workflow.wait_condition(lambda: not self.up_to_date)
            await self._gather()
            self._stamp()
            record = JobRecord(
                job=self._progress.job,
                events=self._progress.unrecorded,
                store_uses=self._progress.unrecorded_uses,
                revision=self._progress.revision,
            )
            self._written_at = workflow.now()
            try:
                await self._write(record)
            except ActivityError:
                workflow.logger.exception("The records refuse the job; tried again in a minute")
                await workflow.sleep(timedelta(minutes=1))
                continue
            self._progress.recorded(record.events[-1].sequence if record.events else 0, record.store_uses)
            self._progress.recorded_revision = record.revision

    async def _gather(self) -> None:
        """The end of a job is not kept waiting."""
        left = timedelta(0) if self._written_at is None else self._written_at + GATHERED_FOR - workflow.now()
        notice = self._progress.notice
        if notice is not None and notice.notice_id != self._notice_id:
            self._notice_id, left = notice.notice_id, max(left, JOINED_WITHIN)
        if left > timedelta(0):
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: self._progress.finished, timeout=left, timeout_summary="gather changes"
                )

    async def _write(self, record: JobRecord) -> None:
        if self._progress.notice is None and not self._database_lags:
            try:
                await workflow.execute_local_activity_method(
                    RecordActivities.record_job, record, **options.RECORD_AT_ONCE
                )
                return
            except FailureError:  # of a local activity, what it raised itself arrives here
                self._database_lags = True
        await workflow.execute_activity_method(
            RecordActivities.record_job, record, summary=str(record.job.state), **options.SURELY
        )
        self._database_lags = False
