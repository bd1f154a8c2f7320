"""Device numbers that stay: an overlay gets the number that it is to have, or says that it is taken. Real mounts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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


def mount_at(*places: tuple[Path, int]) -> list[int]:
    def mounted(holder: device_numbers.Holder, point: Path, number: int) -> int:
        def mount() -> None:
            tool("mount", "-t", "tmpfs", "none", point)

        return holder.mount(number, mount, lambda: os.minor(os.stat(point).st_dev), lambda: unmount(str(point)))

    with device_numbers.holding() as holder:
        return [mounted(holder, point, number) for point, number in places]


def test_file_systems_get_the_numbers_that_they_are_to_have_also_the_highest(place: Callable[[str], Path]) -> None:
    points = [(place("a"), 1499), (place("b"), 1500), (place("c"), device_numbers.LAST)]
    assert mount_at(*points) == [number for _, number in points]
    assert [os.stat(point).st_dev for point, _ in points] == [os.makedev(0, number) for _, number in points]


def test_a_number_that_is_taken_is_said_and_nothing_is_mounted(place: Callable[[str], Path]) -> None:
    first, second = place("first"), place("second")
    assert mount_at((first, 1600)) == [1600]
    with pytest.raises(DeviceNumberTaken, match="0:1600"):
        mount_at((second, 1600))
    assert not os.path.ismount(second)
    unmount(str(first))
    assert mount_at((second, 1600)) == [1600]


def test_nothing_is_held_afterwards(place: Callable[[str], Path]) -> None:
    mount_at((place("high"), 5000))
    low = place("low")
    with device_numbers.holding():  # no other agent of this machine holds any now
        tool("mount", "-t", "tmpfs", "none", low)
    assert os.minor(os.stat(low).st_dev) < device_numbers.FIRST


def test_several_at_once_do_not_take_the_numbers_from_each_other(place: Callable[[str], Path]) -> None:
    points = [(place(str(number)), number) for number in range(4000, 4008)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(mount_at, points)) == [[number] for _, number in points]
