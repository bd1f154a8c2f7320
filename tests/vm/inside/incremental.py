"""Checkpoints that hold only the memory that changed, on a kernel that notes it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from perdure.domain.checkpoints import CheckpointKind, Manifest
from perdure.domain.errors import CheckpointFailed, ImageInvalid
from perdure.image.chain import IMAGES
from tests.integration.engine_bed import Running, freezer_of
from tests.vm.inside.bed import JOB_ID, PATIENCE, Scene, pages, uninterrupted, written
from worker_agent.engine import dump, end_frozen, offered, prepare_restore
from worker_agent.engine.job_root import store

MEBIBYTES = 8
ROUNDS = 40


def chain() -> dict[str, object]:
    """Periodic checkpoints in a row; the last and a middle one are restored, then damaged parents are refused."""
    return asyncio.run(_chain())


async def _chain() -> dict[str, object]:
    scene = Scene(pages(MEBIBYTES, ROUNDS))
    scene.longest_chain, scene.kept = 3, 2
    dump._WORTH_A_PREDUMP = 0  # this job is small
    first = await scene.fresh()
    taken = []
    for number in range(1, 5):  # the fourth begins a new chain
        scene.go_on(first, number * 5)
        scene.predump = number == 3
        taken.append(await scene.checkpoint(first))
    scene.go_on(first, 25)
    kept = offered(scene.bed.volume.root)
    scene.die(first)
    # The middle one: its parents are no checkpoints any more, but their memory is still there.
    second = await scene.restored(taken[2].number)
    anew = await scene.checkpoint(second)
    scene.go_on(second, ROUNDS)
    assert second.exit_code(PATIENCE) == 0
    return {
        "parents": [manifest.parent and manifest.parent.number for manifest in taken],
        "KiB": [manifest.image_bytes >> 10 for manifest in taken],
        "predumped": [any(image.path.startswith("predump/") for image in manifest.images) for manifest in taken],
        "kept": kept,
        "after the restore": anew.parent,
        "same": written(second) == uninterrupted(pages(MEBIBYTES, ROUNDS)),
    }


def final() -> dict[str, object]:
    """A dump that fails in a chain, then a full one, then a final one that builds on it; restored from that."""
    return asyncio.run(_final())


async def _final() -> dict[str, object]:
    scene = Scene(pages(MEBIBYTES, 40))
    scene.kept = 9
    first = await scene.fresh()
    taken = []
    for rounds in (5, 10):
        scene.go_on(first, rounds)
        taken.append(await scene.checkpoint(first))
    scene.go_on(first, 12)
    with _runc_fails(first, "*--parent-path*"):  # tried again at once, whole
        taken.append(await scene.checkpoint(first))
    scene.go_on(first, 15)
    failure = ""
    with _runc_fails(first, "*checkpoint*"):
        try:
            await scene.checkpoint(first)
        except CheckpointFailed as error:
            failure = str(error)
    assert not freezer_of(first).frozen()
    for kind in (CheckpointKind.PERIODIC, CheckpointKind.FINAL):
        scene.go_on(first, 20 if kind is CheckpointKind.PERIODIC else 25)
        taken.append(await scene.checkpoint(first, kind))
    assert freezer_of(first).frozen()
    size = len(first.log())
    await end_frozen(first.container)
    assert len(first.log()) == size
    scene.die(first)
    refused = [await _refused(scene, taken[-1], damage) for damage in (_other_page, _other_parent, _no_parent)]
    second = await scene.restored(taken[-1].number)
    scene.go_on(second, 40)
    assert second.exit_code(PATIENCE) == 0
    return {
        "failure": failure,
        "parents": [manifest.parent and manifest.parent.number for manifest in taken],
        "KiB": [manifest.image_bytes >> 10 for manifest in taken],
        "refused": refused,
        "same": written(second) == uninterrupted(pages(MEBIBYTES, 40)),
    }


@contextlib.contextmanager
def _runc_fails(running: Running, when: str) -> Iterator[None]:
    """CRIU does all its work, clears the kernel's note of changed pages, and then runc says that it failed."""
    before = running.container
    failing = Path("/tmp/failing-runc")
    failing.write_text(f'#!/bin/sh\nrunc "$@" || exit\ncase "$*" in {when}) exit 9; esac\n')
    failing.chmod(0o755)
    tools = replace(before.tools, runc=str(failing))
    running.container = replace(before, tools=tools)
    try:
        yield
    finally:
        running.container = before


def _other_page(folder: Path) -> None:
    pages_file = max((folder / IMAGES).glob("pages-*.img"), key=lambda path: path.stat().st_size)
    content = bytearray(pages_file.read_bytes())
    content[len(content) // 2] ^= 1
    pages_file.write_bytes(content)


def _other_parent(folder: Path) -> None:
    """A checkpoint that is sound, but another one."""
    other = folder.parent / "1"
    shutil.rmtree(folder)
    shutil.copytree(other, folder, symlinks=True)


def _no_parent(folder: Path) -> None:
    shutil.rmtree(folder)


async def _refused(scene: Scene, manifest: Manifest, damage: object) -> str:
    """What verification says when the parent was damaged; the parent is mended afterwards."""
    assert manifest.parent is not None and callable(damage)
    folder = store(scene.bed.volume.root).folder(manifest.parent.number)
    aside = folder.with_name("aside")
    shutil.copytree(folder, aside, symlinks=True)
    damage(folder)
    try:
        await prepare_restore(scene._container(), manifest.number, epoch=scene.epoch, job_id=JOB_ID)
    except ImageInvalid as error:
        return str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    return ""
