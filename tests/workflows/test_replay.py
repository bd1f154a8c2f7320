"""Today's workflow code against recorded histories: a change that would break jobs in flight fails here.

When a change is meant and no job is in flight anywhere (or `workflow.patched` guards it), write the histories anew:
`RECORD_HISTORIES=1 pytest tests/workflows`.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from tests.workflows.story import HISTORIES
from workflows import job_records, options
from workflows.job_protection import JobProtection
from workflows.node_watch import NodeWatch
from workflows.price_keeping import PriceKeeping
from workflows.volume_migration import VolumeMigration

RECORDED = sorted(HISTORIES.glob("*.json"))
ON_A_REAL_SERVER = {"renewed"}
"""The others are from the server that skips time (conftest.skipping_time): records are not gathered there, and
histories not renewed."""


def test_the_histories_are_there() -> None:
    assert {path.stem for path in RECORDED} >= {
        "quiet_life",
        "reclaim_across_zones",
        "node_lost",
        "third_node",
        "failed_by_itself",
        "keep_only",
        "renewed",
        "costs",
        "resumed",
        "prices",
    }


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
async def test_replay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.stem not in ON_A_REAL_SERVER:
        monkeypatch.setattr(job_records, "GATHERED_FOR", timedelta(0))
        monkeypatch.setattr(job_records, "JOINED_WITHIN", timedelta(0))
        monkeypatch.setattr(options, "RENEW_AFTER", 2_000)
    history = WorkflowHistory.from_json(path.stem, path.read_text())
    replayer = Replayer(
        workflows=[JobProtection, VolumeMigration, NodeWatch, PriceKeeping], data_converter=pydantic_data_converter
    )
    await replayer.replay_workflow(history)
