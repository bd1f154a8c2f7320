"""A reclaim takes a job's only attempt; a new job goes on from what was kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import User
from tests.e2e.resuming import check_resume

pytestmark = [pytest.mark.stack]


def test_a_new_job_finishes_what_a_reclaim_ended_for_good(user: User, tmp_path: Path) -> None:
    check_resume(user, tmp_path, moves=True)  # `make matrix` has more in test_docker.py: stays, and out of stores
