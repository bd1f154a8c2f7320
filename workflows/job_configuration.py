"""Changes of the configuration on their way to a running job: read anew when somebody changed them, then told its node.

Beside everything else that the workflow does: a dump that takes minutes does not keep them waiting. What is heard, read
and told is counted in JobProgress, so that a change which comes around continue-as-new is not lost.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.node import CheckpointSettings, NodeActivities
    from workflows.job_questions import load_configuration
    from workflows.job_state import JobProgress
    from workflows.options import NODE_SETTINGS
    from workflows.racing import Overtaken, while_wanted

AGAIN = timedelta(seconds=10)
"""Until what failed is tried again."""


class ConfigurationCourier:
    """Follows one job, as long as its workflow runs."""

    def __init__(self, progress: JobProgress) -> None:
        self._progress = progress

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await workflow.wait_condition(lambda: self._unread or self._progress.untold)
            try:
                await (self._read() if self._unread else self._tell())
            except Overtaken:
                continue
            except ActivityError as problem:
                workflow.logger.warning("a change of the configuration is on its way still: %s", problem.cause)
                await workflow.sleep(AGAIN)

    @property
    def _unread(self) -> bool:
        """Before the first container, there is nothing yet that could have changed."""
        progress = self._progress
        return progress.configuration is not None and progress.changes_read != progress.changes_heard

    async def _read(self) -> None:
        heard = self._progress.changes_heard
        self._progress.configure(await load_configuration(), workflow.now())
        self._progress.changes_read = heard

    async def _tell(self) -> None:
        progress, number, epoch = self._progress, self._progress.settings_number, self._progress.job.epoch
        assert progress.configuration is not None
        node = progress.job.attempts[-1].instance_id
        work = workflow.start_activity_method(
            NodeActivities.apply_checkpoint_settings,
            CheckpointSettings(
                job_id=progress.job.job_id, epoch=epoch, number=number, checkpoint=progress.configuration.checkpoint
            ),
            task_queue=names.node_queue(node),
            summary=f"every {progress.job.interval_seconds:g} s" if progress.job.interval_seconds else "no rhythm",
            **NODE_SETTINGS,
        )
        # A silent node must not keep a newer change waiting.
        await while_wanted(work, lambda: progress.untold and progress.job.epoch == epoch and not self._unread)
        if progress.job.epoch == epoch:
            progress.settings_told = number
