"""The real agent with one part exchanged: it plans by itself instead of asking Temporal, and does what tests ask.

    python -m tests.integration.docker_agent VOLUMES_FOLDER

A job that has a volume in the folder is restored (the ladder, down to a clean start), any other starts fresh on a new
one; `<job>.plan` there (fields of AttachReply as JSON) changes that plan, and with a `store` therein it has no volume.
All else is the agent: runtime socket, starts, checkpoints, hand-over, endings, taking over what a predecessor left. Its
reports stay in the spool, where the tests read them. On <run dir>/test.sock one JSON line asks and one answers:

    {"do": "checkpoint", "job": ID}            a checkpoint now: {"number": n} or {"failure": text}
    {"do": "notice", "way": HandOver's word}   a notice: all jobs are saved and handed over; {"failures": {job: text}}
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perdure.contracts.protection import AttachReply, Verdict
from perdure.domain.checkpoints import CheckpointKind
from perdure.domain.configuration import CheckpointConfiguration, EffectiveConfiguration, JobVolumeConfiguration
from perdure.domain.errors import PerdureError
from perdure.domain.jobs import folder_name
from perdure.domain.nodes import Notice, NoticeKind
from perdure.domain.retries import HandOver
from perdure.logs import configure_logs
from perdure.settings import AgentSettings, connect_temporal
from worker_agent.agent import Agent
from worker_agent.container.bundle import Bundle
from worker_agent.node.metadata import Identity
from worker_agent.node.volumes import DEVICES, device_link
from worker_agent.start.planning import Planner, Refusal

REHEARSALS = os.environ.get("PERDURE_TEST_REHEARSALS") == "1"
VOLUME_SIZE = "512M"
"""The smallest that mkfs.xfs takes is 300 MB."""


def volume_id(job_id: str) -> str:
    return "vol-" + hashlib.sha256(job_id.encode()).hexdigest()[:17]


class LocalPlanner(Planner):
    """Plans for containers from what lies in the folder of volumes, and attaches the volume here."""

    def __init__(self, agent_planner: Planner, volumes: Path) -> None:
        super().__init__(agent_planner._node, agent_planner._attacher)
        self._volumes = volumes

    async def plan(self, container_id: str, bundle: Bundle) -> AttachReply | Refusal:
        return await asyncio.to_thread(self._plan, bundle.job_id)

    def _plan(self, job_id: str) -> AttachReply:
        place = self._volumes / folder_name(job_id)
        image, epochs, wanted = (place.with_name(place.name + end) for end in (".img", ".epoch", ".plan"))
        planned = json.loads(wanted.read_text()) if wanted.exists() else {}
        epoch = int(epochs.read_text()) + 1 if epochs.exists() else 1
        epochs.write_text(str(epoch))
        known = epoch > 1 if planned.get("store") else image.exists()
        if not planned.get("store"):
            if not known:
                subprocess.run(["truncate", "-s", VOLUME_SIZE, str(image)], check=True)
            _attach(image, volume_id(job_id))
            planned = {"volume_id": volume_id(job_id), **planned}
        settings = CheckpointConfiguration(interval_seconds=0.0, keep=3, reserve_mib=16, rehearsal=REHEARSALS)
        fields: dict[str, Any] = {
            "verdict": Verdict.RESTORE if known else Verdict.FRESH,
            "epoch": epoch,
            "configuration": EffectiveConfiguration(
                checkpoint=settings,
                job_volume=JobVolumeConfiguration(scratch=[str(self._volumes.parent / "host/scratch")]),
            ),
        }
        return AttachReply.model_validate(fields | planned)


def _attach(image: Path, volume: str) -> None:
    """A loop device for the image, shown where udev shows EBS volumes."""
    devices = subprocess.run(["losetup", "-n", "-O", "NAME", "-j", image], capture_output=True, text=True, check=True)
    device = devices.stdout.split()[0] if devices.stdout.split() else ""
    if not device:
        made = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=True)
        device = made.stdout.strip()
    link = device_link(volume)
    DEVICES.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    link.symlink_to(device)


class LocalAgent(Agent):
    """Without a metadata service and without Temporal."""

    async def _watch(self) -> None:
        await asyncio.Event().wait()

    async def _serve_temporal(self) -> None:
        await asyncio.Event().wait()

    async def serve_tests(self, path: Path) -> None:
        server = await asyncio.start_unix_server(self._asked, path)
        async with server:
            await server.serve_forever()

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(await reader.readline())
        try:
            answer = await (self._test_checkpoint(asked) if asked["do"] == "checkpoint" else self._test_notice(asked))
        except Exception as problem:
            logging.exception("a test's request failed")
            answer = {"failure": f"{type(problem).__name__}: {problem}"}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
        writer.close()

    async def _test_checkpoint(self, asked: dict[str, Any]) -> dict[str, Any]:
        job = next((one for one in self._jobs if one.record.job_id == asked["job"] and one.runs), None)
        if job is None:
            return {"failure": "that job does not run here under protection"}
        try:
            taken = await self._checkpoints.take(job, CheckpointKind.REQUESTED)
        except PerdureError as problem:
            return {"failure": str(problem)}
        return {"number": taken.number}

    async def _test_notice(self, asked: dict[str, Any]) -> dict[str, Any]:
        jobs = [job for job in self._jobs if job.runs]
        for job in jobs:
            job.wish = HandOver(asked["way"])
            job.wished.set()
        now = datetime.now(UTC)
        self._hand_overs.begin(
            Notice(
                notice_id=now.isoformat(),
                kind=NoticeKind.INTERRUPTION,
                instance_id=self._node.instance_id,
                seen_at=now,
            )
        )
        await asyncio.gather(*(job.final for job in jobs if job.final is not None))
        return {"failures": {job.record.job_id: job.failure for job in jobs if job.failure}}


async def main(volumes: Path) -> None:
    """Until killed."""
    settings = AgentSettings()
    agent = LocalAgent(settings, await connect_temporal())
    agent._starter._planner = LocalPlanner(agent._starter._planner, volumes)
    agent._node.identify(Identity(instanceId=os.environ["INSTANCE_ID"], availabilityZone="us-east-1a"))
    await asyncio.gather(agent.run(), agent.serve_tests(settings.run_dir / "test.sock"))


if __name__ == "__main__":
    configure_logs("INFO", None)
    asyncio.run(main(Path(sys.argv[1])))
