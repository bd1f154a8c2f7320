"""A job whose newest checkpoint was deleted in secret: the demo's verdict is not fooled."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from localcloud.demo.inputs import PROGRAMS
from localcloud.demo.jobs import PYTHON, DemoJob, Places, gate
from localcloud.demo.journey import collect
from localcloud.demo.references import differences, run_reference
from localcloud.demo.stack_user import Look, StackUser
from localcloud.demo.verdict import Kind, PlannedReclaim, Sighting, judge
from localcloud.stack.stack import StackPlace
from perdure import waiting
from perdure.domain.jobs import folder_name
from perdure.image.checksums import digest_images
from perdure.image.manifest import read_manifest, write_manifest
from tests.patience import PATIENCE

pytestmark = pytest.mark.stack

NAME = "small-chain"


def small_chain() -> DemoJob:
    """The demo's second job, smaller, with one death without notice."""

    def command(at: Places) -> list[str]:
        held = ["--pause", "0.2", "--gate", str(at.gates / gate(NAME, 1))] if at.gates else ["--pause", "0"]
        return [
            *(PYTHON, str(at.inputs / "chain.py"), "--log", str(at.root_files / "chain.log")),
            *("--out", str(at.volume / "chain.bin"), "--board", str(at.board)),
            *("--steps", "200", "--memory-mib", "16", *held),
        ]

    return DemoJob(
        name=NAME,
        title="",
        command=command,
        outputs=lambda at: [at.volume / "chain.bin", at.root_files / "chain.log"],
        plan=(PlannedReclaim(Kind.NO_NOTICE, 0.0),),
    )


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Where the job finds its program, and the file that lets it end."""
    (tmp_path / "inputs").mkdir()
    shutil.copy(PROGRAMS / "chain.py", tmp_path / "inputs")
    return tmp_path / "inputs"


@pytest.fixture
def user(stack: str) -> Iterator[StackUser]:
    with contextlib.closing(StackUser(StackPlace(stack), threading.Event())) as user:
        yield user


def test_a_checkpoint_deleted_behind_its_back_turns_ok_false(user: StackUser, inputs: Path, tmp_path: Path) -> None:
    job = small_chain()
    job_id = user.submit(job, inputs, interval="0")
    until(user, job_id, lambda now: now.running and now.progress > 0)
    kept, deleted = user.checkpoint(job_id), user.checkpoint(job_id)
    seen = until(user, job_id, lambda now: now.running and bool(now.tokens))
    delete_checkpoint(user, job_id, deleted)
    user.reclaim(job_id, to_zone=None, notice=False, tell=print)
    (inputs / gate(NAME, 1)).touch()
    sighting = Sighting(
        Kind.NO_NOTICE, seen.batch_status, seen.epoch, str(seen.zone), seen.tokens, seen.progress, datetime.now(UTC)
    )
    until(user, job_id, lambda now: now.finished)

    outcome, evidence = collect(user, job, job_id, [sighting], tmp_path / "fetched")
    reference = run_reference(job, inputs, tmp_path / "reference", threading.Event())
    verdict = judge(job.plan, replace(outcome, differences=differences(job.name, evidence, reference)))
    assert verdict.as_json()["output_identical"] is True, verdict.problems
    assert not verdict.ok
    [problem] = verdict.problems
    assert f"checkpoint {deleted} was committed in time" in problem
    assert f"went on from {kept}" in problem
    assert (verdict.work_lost_seconds or 0) > 0


def test_a_checkpoint_that_no_node_can_restore_is_told_and_the_one_before_goes_on(
    user: StackUser, inputs: Path
) -> None:
    """Its image is whole by its checksums; CRIU cannot read it."""
    job_id = user.submit(small_chain(), inputs, interval="0")
    until(user, job_id, lambda now: now.running and now.progress > 0)
    good, bad = user.checkpoint(job_id), user.checkpoint(job_id)
    spoil_checkpoint(user, job_id, bad)
    user.reclaim(job_id, to_zone=None, notice=False, tell=print)
    (inputs / gate(NAME, 1)).touch()
    until(user, job_id, lambda now: now.finished)
    page = user.client.job_page(job_id) or {}
    told = [event["message"] for event in page["events"]]
    assert any(f"heckpoint {bad}" in line and "memory image is damaged" in line for line in told), told
    assert any(f"goes on from checkpoint {good}" in line for line in told), told
    assert page["quarantined"] == [bad]


def spoil_checkpoint(user: StackUser, job_id: str, number: int) -> None:
    """On the node's own disk, and sealed again; a power loss does not bring it back."""
    folder = checkpoints_of(user, job_id) / str(number)
    image = bytearray((folder / "images/mm-1.img").read_bytes())
    image[8:] = bytes(len(image) - 8)
    (folder / "images/mm-1.img").write_bytes(image)
    write_manifest(folder, read_manifest(folder).model_copy(update={"images": digest_images(folder)}))
    os.sync()


def delete_checkpoint(user: StackUser, job_id: str, number: int) -> None:
    """On the node's own disk, for good: a power loss may not bring it back."""
    root = checkpoints_of(user, job_id)
    shutil.rmtree(root / str(number))
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)


def checkpoints_of(user: StackUser, job_id: str) -> Path:
    """Their folder on the job's node, as this machine sees it."""
    node = user.client.cloud("GET", f"/_local/nodes/{user.client.placed(job_id)['node']}")
    return Path(f"/proc/{node['init_pid']}/root/var/lib/perdure/jobs") / folder_name(job_id) / "checkpoints"


def until(user: StackUser, job_id: str, condition: Callable[[Look], bool], limit: float = PATIENCE) -> Look:
    """The first look at the job for which `condition` holds."""

    def look() -> Look | None:
        seen = user.look(job_id)
        return seen if condition(seen) else None

    return waiting.until(look, limit, 0.7)
