"""Device numbers that stay: an overlay gets the number that it is to have, or says that it is taken. Real mounts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perdure.domain.errors import DeviceNumberTaken
from perdure.image.mounts import delete_tree
from tests.integration.engine_places import tool
from worker_agent.engine import device_numbers
from worker_agent.engine.overlay import unmount

pytestmark = pytest.mark.criu


@pytest.fixture
def place() -> Iterator[Callable[[str], Path]]:
    """Makes mount points; whatever is mounted there goes at the end."""
    top = Path(tool("mktemp", "-d", "/var/tmp/perdure-test-XXXXXX"))

    def made(name: str) -> Path:
        (top / name).mkdir()
        return top / name

    try:
        yield made
    finally:
        for point in top.iterdir():
            if os.path.ismount(point):
                unmount(str(point))
        delete_tree(top)


def mount_at(point: Path, number: int) -> int:
    def mount() -> None:
        tool("mount", "-t", "tmpfs", "none", point)

    return device_numbers.mount_with(
        number,
        mount,
        lambda: os.minor(os.stat(point).st_dev),
        lambda: unmount(str(point)),
    )


def test_a_file_system_gets_the_number_that_it_is_to_have_also_the_highest(place: Callable[[str], Path]) -> None:
    for name, number in (("a", 1500), ("b", 1499), ("c", device_numbers.LAST)):
        point = place(name)
        assert mount_at(point, number) == number
        assert os.stat(point).st_dev == os.makedev(0, number)


def test_a_number_that_is_taken_is_said_and_nothing_is_mounted(
    place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = place("first"), place("second")
    assert mount_at(first, 1600) == 1600
    monkeypatch.setattr(device_numbers, "_PATIENCE", 0.2)
    with pytest.raises(DeviceNumberTaken, match="0:1600"):
        mount_at(second, 1600)
    assert not os.path.ismount(second)
    unmount(str(first))
    assert mount_at(second, 1600) == 1600


def test_nothing_is_held_afterwards(place: Callable[[str], Path]) -> None:
    mount_at(place("high"), 5000)
    low = place("low")
    tool("mount", "-t", "tmpfs", "none", low)
    assert os.minor(os.stat(low).st_dev) < device_numbers.FIRST
