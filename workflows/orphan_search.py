"""Looks for orphans in AWS now, for a person; deletes nothing. Workflow `orphan-search`, started by the API."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import names
    from perdure.contracts.orphans import FindOrphans, OrphanActivities, OrphansFound
    from workflows.job_questions import in_words
    from workflows.options import PERSON_WAITS

FOUND_WITHIN = timedelta(seconds=40)
"""A person waits."""


@workflow.defn(name=names.ORPHAN_SEARCH)
class OrphanSearch:
    """One at a time; whoever asks meanwhile gets the same answer."""

    @workflow.run
    async def run(self, request: FindOrphans) -> OrphansFound:
        """What nobody owns, or in words why nobody knows. Never fails."""
        try:
            return await workflow.execute_activity_method(
                OrphanActivities.find_orphans,
                request,
                start_to_close_timeout=timedelta(seconds=35),
                schedule_to_close_timeout=FOUND_WITHIN,
                retry_policy=PERSON_WAITS,
            )
        except ActivityError as problem:
            return OrphansFound(problem=in_words(problem))
