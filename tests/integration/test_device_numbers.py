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

TRIES = 5


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


def mounted_at(place: Callable[[str], Path], *numbers: int) -> dict[Path, int]:
    """File systems with these numbers, or with the next ones: somebody else's mount may take one at any moment."""
    for attempt in range(TRIES):
        wanted = {place(f"{number}-{attempt}"): number - attempt for number in numbers}
        try:
            assert mount_at(*wanted.items()) == list(wanted.values())
        except DeviceNumberTaken:
            for point in wanted:
                if os.path.ismount(point):
                    unmount(str(point))
        else:
            return wanted
    pytest.fail(f"one of {numbers} was always taken")


def test_file_systems_get_the_numbers_that_they_are_to_have_also_the_highest(place: Callable[[str], Path]) -> None:
    found = mounted_at(place, 1450, 1500, device_numbers.LAST)
    assert {point: os.stat(point).st_dev for point in found} == {at: os.makedev(0, found[at]) for at in found}


def test_a_number_that_is_taken_is_said_and_nothing_is_mounted(place: Callable[[str], Path]) -> None:
    ((_, number),) = mounted_at(place, 1611).items()
    second = place("second")
    with pytest.raises(DeviceNumberTaken, match=f"0:{number}"):
        mount_at((second, number))
    assert not os.path.ismount(second)


def test_nothing_is_held_afterwards(place: Callable[[str], Path]) -> None:
    mounted_at(place, 5003)
    low = place("low")
    with device_numbers.holding():  # no other agent of this machine holds any now
        tool("mount", "-t", "tmpfs", "none", low)
    assert os.minor(os.stat(low).st_dev) < device_numbers.FIRST


def test_several_at_once_do_not_take_the_numbers_from_each_other(place: Callable[[str], Path]) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: mounted_at(place, number), range(4011, 4139, device_numbers.STEP)))
    for wanted in found:
        assert [os.minor(os.stat(point).st_dev) for point in wanted] == list(wanted.values())
