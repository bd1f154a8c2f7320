"""Awaiting an activity no longer than its result is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from temporalio import workflow

T = TypeVar("T")


class Overtaken(Exception):
    """What was being done is no longer wanted: something newer was heard meanwhile."""


async def while_wanted(work: workflow.ActivityHandle[T], wanted: Callable[[], bool], *, cancel: bool = False) -> T:
    """The activity's result, or its ActivityError; Overtaken as soon as it is not `wanted` any more.

    `cancel`: have the activity stop then, because it would go on to do what is no longer right. Lookups and those on a
    node are left alone: a lookup does no harm, and on a node a final checkpoint takes precedence by itself.
    """
    await workflow.wait_condition(lambda: work.done() or not wanted())
    if work.done():
        return await work
    work.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else will look at it
    if cancel:
        work.cancel()
    raise Overtaken
