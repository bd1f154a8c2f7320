"""Device numbers that stay: an overlay gets the number that it is to have, or says that it is taken. Real mounts."""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from perdure.domain.errors import DeviceNumberTaken, RestoreFailed
from perdure.image.files import TREES
from perdure.image.mounts import delete_tree
from tests.integration.engine_places import tool
from worker_agent.engine import device_numbers, overlay
from worker_agent.engine.overlay import unmount
from worker_agent.engine.writable_layer import unmount_layer

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


def test_two_jobs_seldom_choose_the_same_numbers() -> None:
    jobs = 20_000
    chosen = [device_numbers.choose(3) for _ in range(jobs)]
    assert all(
        min(numbers) >= device_numbers.FIRST and max(numbers) + 2 <= device_numbers.LAST and numbers[0] > numbers[-1]
        for numbers in chosen
    )
    slots = Counter((min(numbers) - device_numbers.FIRST) // device_numbers.STEP for numbers in chosen)
    pairs = sum(count * (count - 1) for count in slots.values()) / (jobs * (jobs - 1))
    assert 30 * pairs < 0.006, "a restore beside 30 jobs finds its numbers taken once in 200 times"


def test_where_the_kernel_takes_no_such_overlay_each_number_has_a_file_system(
    place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_numbers, "_OPTIONS", b"no-such-option=1,lowerdir=")
    mounted_at(place, 1817)


def test_numbers_around_those_of_others_are_found(place: Callable[[str], Path]) -> None:
    """Others lie below the number: as many as one step takes, and single ones."""
    ((_, number),) = mounted_at(place, 2707).items()
    mounted_at(place, number - 1 - TRIES, number + 1 + TRIES)
    for distance in (20, 300):
        mounted_at(place, number + distance)


def test_who_waits_too_long_is_told(place: Callable[[str], Path]) -> None:
    refused = pytest.raises(RestoreFailed, match="another agent")
    with device_numbers.holding(), refused as problem, device_numbers.holding(patience=0.1):
        pytest.fail("two at once")
    assert problem.value.node_fault


def test_a_first_start_takes_any_number_when_another_agent_does_not_let_go(
    place: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay, "_PATIENCE", 0.1)
    root, lower, point = place("root"), place("lower"), place("point")
    for live in TREES.values():
        (root / live).mkdir(parents=True)
    lock = os.open("/usr", os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        got = overlay.mount_overlays((str(lower),), root, point)
        assert got == overlay.device_numbers_of(root)
    finally:
        os.close(lock)
        unmount_layer(root)
    assert max(got.values()) < device_numbers.FIRST
