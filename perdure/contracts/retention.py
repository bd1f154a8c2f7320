"""Forgetting old records: what the workflow asks of the database."""

from __future__ import annotations

from datetime import datetime

from temporalio import activity

from perdure.domain.values import Frozen


class ForgetOldRecords(Frozen):
    """`now` (UTC) decides what is old, so that a repeated call forgets the same."""

    now: datetime


class ForgottenRecords(Frozen):
    """How many of each went."""

    jobs: int = 0
    nodes: int = 0
    lines: int = 0


class RetentionActivities:
    """The database's house-keeping."""

    @activity.defn(name="forget_old_records")
    async def forget_old_records(self, request: ForgetOldRecords) -> ForgottenRecords:
        """By the server section of the configuration as it is. Key: `now`; what is gone is not counted again."""
        raise NotImplementedError
