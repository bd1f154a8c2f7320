"""The release alone in a virtual machine with systemd and Docker, Debian's cloud kernel and cgroup version 2 alone.

`make release-check` runs it and keeps what was seen.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import tarfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.integration.docker_images import image_archive
from tests.release.management import VOLUME, Management, management
from tests.vm import systemd
from tests.vm.conftest import COLUMN

pytestmark = [pytest.mark.vm, pytest.mark.matrix, pytest.mark.timeout(4200)]
_LIMIT = 3300.0
"""Seconds: with a processor of its own it takes less than five minutes."""
RECORD = "PERDURE_RELEASE_RECORD"
"""Names the file that is to hold what was seen."""


def _job(release: Path, place: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(Path(__file__).parent / "in_vm.py", "in_vm.py")
        archive.add(release, "release")
        archive.add(image_archive(place / "image.tar"), "image.tar")
    return content.getvalue()


def _answers(around: Management, job: str) -> None:
    """What the machine may ask for."""

    def notice() -> str:
        around.metadata.notice_seconds, around.metadata.noticed = 600.0, True
        return "noticed"

    def volume() -> str:
        known = around.cloud.volumes.get(VOLUME)
        return "deleted" if known is None else "attached" if known.attached_to else "free"

    def reclaimed() -> str:
        around.reclaimed(job, "i-0000000000000002")
        return "reclaimed"

    def ended() -> str:
        around.ended(job)
        return "ended"

    around.metadata.asked |= {"notice": notice, "volume": volume, "reclaimed": reclaimed, "ended": ended}


@pytest.mark.row("Kernels", "cgroup v2: Docker 20.10 with systemd's cgroup driver, a new scope", column=COLUMN)
async def test_a_platform_engineers_machine(release: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = systemd.built()
    job = f"job-{secrets.token_hex(6)}"
    begun = time.monotonic()
    async with management(job) as around:
        _answers(around, job)
        arguments = {"temporal": around.temporal.rpartition(":")[2], "metadata": around.metadata.port, "job": job}
        header: dict[str, Any] = {"entry": "in_vm:life", "arguments": [arguments]}
        said = await asyncio.to_thread(machine.boot, _job(release, place), header, _LIMIT)
        happened = around.happened(job)
    for message in said:
        print(json.dumps(message))
    assert not [message for message in said if "error" in message], happened
    found = next(message["result"] for message in said if "result" in message)
    assert (found["default runtime"], found["docker kept running"]) == ("perdure", True)
    assert "ActiveState=active" in found["agent"]
    assert found["saved"] > 3 and found["lines"] == list(range(1, len(found["lines"]) + 1))
    assert found["exit code"] == "0"
    assert json.loads(found["after a refusal"])["labels"] == ["somebody=else"]
    assert "perdure" not in found["after a refusal"] and found["default runtime again"] == "perdure"
    assert set(found["different"]) <= {"/etc/docker/key.json"}, "files as they were, but for Docker's own"
    assert found["runtime at the end"] == "runc" and "perdure" not in found["units left"]
    if record := os.environ.get(RECORD):
        archive = next(release.glob("perdure-worker-*.tar.gz"))
        kept: dict[str, Any] = {"release": archive.name, "megabytes": round(archive.stat().st_size / 1e6, 1)}
        kept["day"] = f"{datetime.now(UTC):%Y-%m-%d}"
        kept |= {"seconds, emulated": round(time.monotonic() - begun), "seen": found, "timeline": happened}
        Path(record).write_text(json.dumps(kept, indent=1) + "\n")
