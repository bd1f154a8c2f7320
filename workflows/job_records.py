"""Keeps the Temporal UI and the records in step with what the workflow knows, in the background.

No attach and no final checkpoint waits for a database: changes are gathered while one record is being written.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts.control import JobRecord, RecordActivities
    from workflows import job_display, options
    from workflows.job_state import JobProgress


class JobRecorder:
    """Follows one job. Two coroutines run as long as the workflow does."""

    def __init__(self, progress: JobProgress) -> None:
        self._progress = progress
        self._shown = 0
        self._recorded = 0

    @property
    def up_to_date(self) -> bool:
        """The records know all there is."""
        return self._recorded == self._progress.revision

    async def keep_shown(self) -> None:
        """Current details and search attributes, once per change."""
        attributes: dict[str, object] = {}
        while True:
            await workflow.wait_condition(lambda: self._progress.revision != self._shown)
            self._shown = self._progress.revision
            workflow.set_current_details(job_display.details(self._progress))
            if changes := job_display.search_attributes(self._progress, attributes):
                workflow.upsert_search_attributes(changes)

    async def keep_recorded(self) -> None:
        """The database, however long it is away; timeline lines wait until it has them."""
        while True:
            await workflow.wait_condition(lambda: not self.up_to_date)
            record = JobRecord(
                job=self._progress.job, events=self._progress.unrecorded, revision=self._progress.revision
            )
            try:
                await workflow.execute_activity_method(
                    RecordActivities.record_job, record, summary=str(record.job.state), **options.SURELY
                )
            except ActivityError:
                workflow.logger.exception("The records refuse the job; tried again in a minute")
                await workflow.sleep(timedelta(minutes=1))
                continue
            if record.events:
                self._progress.recorded(record.events[-1].sequence)
            self._recorded = record.revision
