"""A Temporal server that skips time, and the driver of one job's story.

`RECORD_HISTORIES=1 pytest tests/workflows` writes the histories anew that the replay test uses.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.testing import WorkflowEnvironment

from activities.__main__ import register_search_attributes
from perdure.contracts import names
from tests.temporal_server import dev_server, time_skipping_server
from tests.workflows.story import Story
from workflows import job_records, options


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "recorded(name): the history of this story is kept for the replay test")


@asynccontextmanager
async def skipping_time(one_history: bool = True) -> AsyncIterator[WorkflowEnvironment]:
    """A server that skips time, which knows our search attributes.

    It strands a workflow that cancels a timer while that fires (sdk-java#3088; one story in 25 on a loaded machine), so
    records are not gathered here. On a real server they are: test_what_it_costs. And a story stays in one history, for
    the replay test (`one_history`); renewal is test_on_a_real_server's and test_a_long_life's.
    """
    before = job_records.GATHERED_FOR, job_records.JOINED_WITHIN, options.RENEW_AFTER
    job_records.GATHERED_FOR = job_records.JOINED_WITHIN = timedelta(0)
    if one_history:
        options.RENEW_AFTER = 2_000
    try:
        async with await time_skipping_server() as environment:
            kinds = {
                name: IndexedValueType.Value(f"INDEXED_VALUE_TYPE_{kind.upper()}")
                for name, kind in names.SEARCH_ATTRIBUTES.items()
            }
            await environment.client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(namespace=environment.client.namespace, search_attributes=kinds)
            )
            yield environment
    finally:
        job_records.GATHERED_FOR, job_records.JOINED_WITHIN, options.RENEW_AFTER = before


@pytest.fixture
async def environment() -> AsyncIterator[WorkflowEnvironment]:
    async with skipping_time() as environment:
        yield environment


@pytest.fixture
async def real_story(request: pytest.FixtureRequest) -> AsyncIterator[Story]:
    """The same on a real development server."""
    async with await dev_server() as environment:
        await register_search_attributes(environment.client)
        async with Story.begin(environment.client, environment) as story:
            yield story
        await keep_history(story, request)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for an activity that nobody takes is not skipped by the server: have the workflow wait for less."""
    for patience in ("ATTACH_PATIENCE", "NODE_PATIENCE", "NODE_PATIENCE_ON_NOTICE"):
        monkeypatch.setattr(options, patience, timedelta(seconds=3))
    for limit in ("start_to_close_timeout", "schedule_to_close_timeout"):
        monkeypatch.setitem(options.VOLUME, limit, timedelta(seconds=6))


@pytest.fixture
async def story(environment: WorkflowEnvironment, request: pytest.FixtureRequest) -> AsyncIterator[Story]:
    """One job, whose Batch retries reclaims, with a control worker on fakes."""
    async with Story.begin(environment.client, environment) as story:
        yield story
    await keep_history(story, request)


async def keep_history(story: Story, request: pytest.FixtureRequest) -> None:
    mark = request.node.get_closest_marker("recorded")
    if mark is not None and os.environ.get("RECORD_HISTORIES"):
        await story.record_history(mark.args[0])
