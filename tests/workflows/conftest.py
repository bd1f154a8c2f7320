"""A Temporal server that skips time, and the driver of one job's story.

`RECORD_HISTORIES=1 pytest tests/workflows` writes the histories anew that the replay test uses.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import AsyncIterator

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from perdure.contracts import names
from tests.workflows.story import Story


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "recorded(name): the history of this story is kept for the replay test")


def program(name: str) -> str:
    """A program of this environment."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    assert found, f"{name} is missing; run `make setup`"
    return found


@pytest.fixture
async def environment() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_time_skipping(
        test_server_existing_path=program("temporal-test-server"), data_converter=pydantic_data_converter
    ) as environment:
        kinds = {
            name: IndexedValueType.Value(f"INDEXED_VALUE_TYPE_{kind.upper()}")
            for name, kind in names.SEARCH_ATTRIBUTES.items()
        }
        await environment.client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=environment.client.namespace, search_attributes=kinds)
        )
        yield environment


@pytest.fixture
async def story(environment: WorkflowEnvironment, request: pytest.FixtureRequest) -> AsyncIterator[Story]:
    """One job, whose Batch retries reclaims, with a control worker on fakes."""
    async with Story.begin(environment.client, environment) as story:
        yield story
    mark = request.node.get_closest_marker("recorded")
    if mark is not None and os.environ.get("RECORD_HISTORIES"):
        await story.record_history(mark.args[0])
