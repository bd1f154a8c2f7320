"""Awaiting an activity no longer than its result is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from temporalio import workflow

T = TypeVar("T")


class Overtaken(Exception):
    """What was being done is no longer wanted: something newer was heard meanwhile."""


async def while_wanted(work: workflow.ActivityHandle[T], wanted: Callable[[], bool], give_up: bool = True) -> T:
    """The activity's result, or its ActivityError; Overtaken as soon as it is not `wanted` any more.

    `give_up`: ask the activity to stop then. Those on a node are left alone: there, a final checkpoint takes precedence
    by itself, and reports tell what came of the other.
    """
    await workflow.wait_condition(lambda: work.done() or not wanted())
    if work.done():
        return await work
    work.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else will look at it
    if give_up:
        work.cancel()
    raise Overtaken
