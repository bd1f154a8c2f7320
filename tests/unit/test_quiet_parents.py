"""Which threads come back with SIGCHLD blocked, and what their images say then."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from perdure.domain.errors import ImageInvalid
from worker_agent.engine import criu_image
from worker_agent.engine.criu_image import Field, Message
from worker_agent.engine.quiet_parents import BIT, hushed, threads_to_hush

CORE, TREE = 0x55053847, 0x50273030
NO_STOPS, DEFAULT, IGNORED, HANDLER = 1, 0, 1, 0x401000


def core(handler: int = 0, flags: int = 0, mask: int = 0, of_thread: int | None = None, *, first: bool = True) -> bytes:
    actions = [Field(15, 2, criu_image.encode([Field(1, 0, 0), Field(2, 0, 0)])) for _ in range(62)]
    actions[signal.SIGCHLD - 2] = Field(15, 2, criu_image.encode([Field(1, 0, handler), Field(2, 0, flags)]))
    task: Message = [Field(1, 0, 1), Field(5, 0, mask), *actions]
    thread: Message = [Field(1, 0, 0)] + ([] if of_thread is None else [Field(6, 0, of_thread)])
    parts = [Field(3, 2, criu_image.encode(task))] if first else []
    return criu_image.image(CORE, [criu_image.encode([*parts, Field(5, 2, criu_image.encode(thread))])])


def saved(folder: Path, processes: dict[int, tuple[int, list[int]]], cores: dict[int, bytes]) -> Path:
    entries = [
        criu_image.encode([Field(1, 0, pid), Field(2, 0, parent), *(Field(5, 0, tid) for tid in threads)])
        for pid, (parent, threads) in processes.items()
    ]
    (folder / "pstree.img").write_bytes(criu_image.image(TREE, entries))
    for tid, content in cores.items():
        (folder / f"core-{tid}.img").write_bytes(content)
    return folder


def test_a_parent_with_a_handler_is_hushed_in_every_thread_that_would_take_it(tmp_path: Path) -> None:
    cores = {
        1: core(HANDLER, of_thread=4),
        2: core(first=False, of_thread=BIT | 4),
        3: core(first=False, of_thread=8),
        9: core(HANDLER),
    }
    images = saved(tmp_path, {1: (0, [1, 2, 3]), 9: (1, [9])}, cores)
    assert threads_to_hush(images) == {1: frozenset({1, 3})}
    changed = hushed(images, {})
    assert changed.keys() == {"core-1.img", "core-3.img"}
    (image,) = criu_image.entries(changed["core-1.img"], CORE)
    message = criu_image.parse(image)
    assert criu_image.number(criu_image.part(message, 5) or [], 6) == BIT | 4
    assert len([field for field in criu_image.part(message, 3) or [] if field.number == 15]) == 62


@pytest.mark.parametrize(
    ("handler", "flags", "mask"), [(DEFAULT, 0, 0), (IGNORED, 0, 0), (HANDLER, NO_STOPS, 0), (HANDLER, 0, BIT)]
)
def test_one_that_hears_nothing_anyhow_is_left_alone(tmp_path: Path, handler: int, flags: int, mask: int) -> None:
    images = saved(tmp_path, {1: (0, [1]), 2: (1, [2])}, {1: core(handler, flags, mask), 2: core()})
    assert hushed(images, {}) == {}


def test_an_image_that_is_changed_already_keeps_that_change(tmp_path: Path) -> None:
    images = saved(tmp_path, {1: (0, [1]), 2: (1, [2])}, {1: core(HANDLER), 2: core()})
    other = core(HANDLER, mask=2)
    changed = hushed(images, {"core-1.img": other})["core-1.img"]
    (image,) = criu_image.entries(changed, CORE)
    assert criu_image.number(criu_image.part(criu_image.parse(image), 3) or [], 5) == BIT | 2


def test_a_damaged_image_is_said(tmp_path: Path) -> None:
    images = saved(tmp_path, {1: (0, [1]), 2: (1, [2])}, {1: b"damaged", 2: core()})
    with pytest.raises(ImageInvalid):
        hushed(images, {})
