"""Jobs whose checkpoints are in a store: the agent as a process, real containers, a directory and a real S3 server.
Only the job's workflow is scripted."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from perdure.contracts.protection import NodeReport, ReportKind, Verdict
from perdure.domain.checkpoints import CheckpointKind
from perdure.domain.configuration import StoreConfiguration
from perdure.domain.retries import HandOver, RetryStrategy
from perdure.stores.directory import DirectoryObjects
from perdure.stores.layout import Place
from perdure.stores.opening import open_store
from perdure.stores.stored_checkpoints import StoredCheckpoints
from tests.integration.agent_bed import Bed, Node, bed, until, written_whole
from tests.integration.test_agent import COUNT, lines, notify
from tests.stores.store_bed import ACCESS, BUCKET, aws_access, s3_url

pytestmark = pytest.mark.criu
__all__ = ["aws_access", "s3_url"]


@pytest.fixture
async def home() -> AsyncIterator[Bed]:
    async with bed() as made:
        yield made


@pytest.fixture
def shared(tmp_path: Path) -> StoreConfiguration:
    """A directory that all nodes have."""
    (tmp_path / "shared").mkdir()
    return StoreConfiguration(kind="directory", directory=str(tmp_path / "shared"), scratch_gib=1)


def in_store(store: StoreConfiguration) -> dict[str, Any]:
    """What makes a plan one without a volume."""
    return {"volume_id": None, "store": store}


def stored(home: Bed, store: StoreConfiguration) -> StoredCheckpoints:
    return StoredCheckpoints(open_store(store), home.job_id)


def lies_there(home: Bed, store: StoreConfiguration) -> int:
    """Bytes in the job's folder."""
    return sum(one.size for one in open_store(store).list(Place.of(home.job_id).job))


def scratch(node: Node) -> list[str]:
    folder = node.path(node.folder / "state/scratch")
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


async def goes_on_elsewhere(home: Bed, store: StoreConfiguration, **environment: str) -> None:
    node = await home.new_node(**environment)
    launched = await home.launch(node, COUNT.format(lines=120), home.plan(**in_store(store)))
    await launched.more_lines(20)
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None, f"{outcome.failure}\n{node.agent_log()}"
    assert stored(home, store).numbers() == [1]
    assert "upload" in outcome.checkpoint.phases
    told = (await home.report(ReportKind.CHECKPOINT)).store_use
    assert told is not None and told.held_bytes == lies_there(home, store), "for the ledger"
    assert (told.store, told.writes > 2) == (store.kind, store.kind == "s3")
    await launched.more_lines(10)
    home.lose(node, launched)
    node = await home.new_node(**environment)
    again = await home.launch(node, "exit 9", home.plan(Verdict.RESTORE, diagnosis=True, **in_store(store)), attempt=2)
    started = await home.report(ReportKind.STARTED, 2)
    assert (started.epoch, started.restored_from, started.rungs) == (2, 1, [])
    assert [one.number for one in started.found] == [1] and "fetched" in started.phases
    assert started.store_use is not None and (started.store_use.reads > 2) == (store.kind == "s3")
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None and outcome.checkpoint.number == 2, outcome.failure
    home.hurry(node)
    assert await again.exit_code() == 7
    root = home.job_root(node)
    for written in (root / "log/stdout", root / "layer/upper/log", root / "data/log"):
        await written_whole(written, lines(120))
    await node.delete(again)
    await until(lambda: "state/jobs" not in node.mounted(), "all unmounted")
    assert scratch(node) == [f"{home.job_id}.xfs"], "diagnosis mode keeps it"
    store_of = stored(home, store)
    assert [store_of.verify(number).checkpoint.epoch for number in store_of.numbers()] == [1, 2]


async def test_a_job_goes_on_from_a_directory(home: Bed, shared: StoreConfiguration) -> None:
    await goes_on_elsewhere(home, shared)


async def test_a_job_goes_on_from_s3(home: Bed, s3_url: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url["seaweedfs"])
    store = StoreConfiguration(kind="s3", bucket=BUCKET, prefix=f"{home.job_id}/", scratch_gib=1)
    await goes_on_elsewhere(home, store, AWS_ENDPOINT_URL=s3_url["seaweedfs"], **ACCESS)


async def test_on_a_notice_the_final_one_is_in_the_store_before_the_hand_over(
    home: Bed, shared: StoreConfiguration
) -> None:
    node = await home.new_node()
    retry = RetryStrategy(attempts=3)
    plan = home.plan(retry=retry, hand_over=HandOver.END_CONTAINER, **in_store(shared))
    launched = await home.launch(node, COUNT.format(lines=400), plan)
    await launched.more_lines(10)
    notify(node)
    handed = await home.report(ReportKind.HANDED_OVER)
    assert handed.hand_over is HandOver.END_CONTAINER and handed.checkpoint is not None
    (number,) = stored(home, shared).numbers()
    found = stored(home, shared).verify(number).checkpoint
    assert (found.kind, found.number) == (CheckpointKind.FINAL, handed.checkpoint.number)
    await until(lambda: "state/jobs" not in node.mounted(), "all unmounted")
    assert scratch(node) == []
    assert await launched.exit_code() != 0
    other = await home.new_node()
    again = await home.launch(
        other, "exit 9", home.plan(Verdict.RESTORE, diagnosis=True, **in_store(shared)), attempt=2
    )
    home.hurry(other)
    assert await again.exit_code() == 7
    await written_whole(home.job_root(other) / "log/stdout", lines(400))


async def test_a_damaged_one_is_a_rung_and_the_one_before_it_is_restored(home: Bed, shared: StoreConfiguration) -> None:
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=200), home.plan(**in_store(shared)))
    for _ in range(2):
        await launched.more_lines(10)
        outcome = await home.checkpoint(node)
        assert outcome.checkpoint is not None, outcome.failure
    home.lose(node, launched)
    manifest = Path(shared.directory) / Place.of(home.job_id).manifest(2)
    content = bytearray(manifest.read_bytes())
    content[-1] ^= 1
    manifest.write_bytes(content)
    node = await home.new_node()
    await home.launch(node, "exit 9", home.plan(Verdict.RESTORE, **in_store(shared)), attempt=2)
    started = await home.report(ReportKind.STARTED, 2)
    assert started.restored_from == 1
    assert [(rung.number, rung.image_fault) for rung in started.rungs] == [(2, True)]
    assert "its seal is wrong" in started.rungs[0].reason
    # The number of the damaged one is not given again.
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None and outcome.checkpoint.number == 3


async def test_a_store_that_is_away_leaves_a_first_attempt_unprotected(home: Bed, shared: StoreConfiguration) -> None:
    shutil.rmtree(shared.directory)
    node = await home.new_node()
    launched = await home.launch(node, "echo alone; exit 3", home.plan(**in_store(shared)))
    assert await launched.exit_code() == 3 and launched.lines() == ["alone"]

    async def unprotected() -> list[NodeReport]:
        return [one for one in await home.reports() if one.unprotected]

    (report,) = await until(unprotected, "the report")
    assert "mounted" in report.reason
    assert scratch(node) == [] and "state/jobs" not in node.mounted()


async def test_a_store_that_goes_away_costs_checkpoints_and_not_the_job(
    home: Bed, shared: StoreConfiguration, tmp_path: Path
) -> None:
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=300), home.plan(**in_store(shared)))
    await launched.more_lines(5)
    Path(shared.directory).rename(tmp_path / "away")
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is None and "did not reach the store" in outcome.failure
    failed = await home.report(ReportKind.CHECKPOINT_FAILED)
    assert "mounted" in failed.reason
    await launched.more_lines(5)
    (tmp_path / "away").rename(shared.directory)
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None, outcome.failure
    assert stored(home, shared).numbers() == [outcome.checkpoint.number]


async def test_an_older_container_commits_nothing_any_more(home: Bed, shared: StoreConfiguration) -> None:
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=300), home.plan(**in_store(shared)))
    await launched.more_lines(5)
    stored(home, shared).claim(2)  # a newer one, on a node that we cannot see
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is None and "epoch 2" in outcome.failure
    assert stored(home, shared).numbers() == []


async def test_a_clean_start_leaves_nothing_to_restore(home: Bed, shared: StoreConfiguration) -> None:
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=300), home.plan(**in_store(shared)))
    await launched.more_lines(5)
    assert (await home.checkpoint(node)).checkpoint is not None
    home.lose(node, launched)
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=300), home.plan(Verdict.FRESH, **in_store(shared)), attempt=2)
    assert stored(home, shared).numbers() == []
    packs = [*DirectoryObjects(Path(shared.directory)).list(Place.of(home.job_id).packs)]
    assert packs == []
    await launched.more_lines(5)
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None and outcome.checkpoint.number == 2


async def test_damage_in_the_store_is_found_while_the_job_runs(home: Bed, shared: StoreConfiguration) -> None:
    """Another one is taken, and it does not lean on what is damaged, whoever wrote that."""
    node = await home.new_node()
    launched = await home.launch(node, COUNT.format(lines=6000), home.plan(**in_store(shared)))
    await launched.more_lines(5)
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None, outcome.failure
    node.kill_agent()  # nothing that it has read back is remembered
    packs = Path(shared.directory) / Place.of(home.job_id).packs
    for pack in packs.iterdir():
        content = pack.read_bytes()
        pack.write_bytes(content[:16] + bytes(len(content) // 2) + content[16 + len(content) // 2 :])
    await node.start_agent()
    second = await home.checkpoint(node)
    assert second.checkpoint is not None, second.failure
    await until(lambda: (numbers := stored(home, shared).numbers()) and min(numbers) > 2, "a sound one alone")

    async def damaged() -> list[NodeReport]:
        return [one for one in await home.reports(ReportKind.REMARK) if "Damaged in the store" in one.reason]

    assert (await until(damaged, "the report"))[0].level == "error"
    for number in stored(home, shared).numbers():
        stored(home, shared).verify(number)
