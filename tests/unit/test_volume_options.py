"""Volumes that EBS would refuse are refused when they are configured, in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from perdure.domain.configuration import JobVolumeConfiguration
from perdure.domain.prices import Prices
from perdure.domain.volume_sizes import billed, month_rate
from perdure.domain.volumes import VolumeOptions, fitting, freed_in_words, grown_size, impossible


@pytest.mark.parametrize(("given", "said"), [
    ({}, ""),
    ({"volume_type": "gp2"}, ""),
    ({"volume_type": "gp2", "iops": 3000}, "takes no number of operations"),
    ({"volume_type": "gp2", "throughput_mib_per_second": 200}, "takes no throughput"),
    ({"size_gib": 1, "iops": 3000}, ""),
    ({"size_gib": 5, "iops": 6000}, "at most 500 operations a second for each GiB"),
    ({"iops": 2000}, "3000 to 80000"),
    ({"throughput_mib_per_second": 750}, ""),
    ({"throughput_mib_per_second": 1000}, "need at least 4000 operations"),
    ({"throughput_mib_per_second": 1000, "iops": 4000}, ""),
    ({"throughput_mib_per_second": 100}, "125 to 2000"),
    ({"volume_type": "io1"}, "needs a number of operations"),
    ({"volume_type": "io1", "iops": 100, "size_gib": 3}, "at least 4 GiB"),
    ({"volume_type": "io1", "iops": 5000}, ""),
    ({"volume_type": "io1", "iops": 6000}, "at most 50 operations"),
    ({"volume_type": "io2", "iops": 60_000}, ""),
    ({"kms_key": "alias/jobs"}, "goes with encryption"),
    ({"kms_key": "alias/jobs", "encrypted": True}, ""),
    ({"mount_path": "/usr/"}, "an image has something else there"),
    ({"mount_path": "/dev/shm/job"}, "an image has something else there"),
])  # fmt: skip
def test_what_ebs_would_refuse(given: dict[str, Any], said: str) -> None:
    if not said:
        JobVolumeConfiguration(**given)
        return
    with pytest.raises(ValidationError, match=said):
        JobVolumeConfiguration(**given)


def test_a_volume_that_moves_gets_what_its_size_can_have() -> None:
    dear = VolumeOptions(iops=40_000, encrypted=True)
    assert fitting("io1", 1000, dear) == ("io1", dear)
    assert fitting("io1", 10, dear) == ("gp3", VolumeOptions(encrypted=True))


@pytest.mark.parametrize(("size", "most", "used_gib", "no_room", "grown"), [
    (100, 0, 99, False, None),
    (100, 500, 79, False, None),
    (100, 500, 80, False, 150),
    (100, 500, 10, True, 150),
    (100, 120, 95, False, 120),
    (100, 105, 95, False, None),
    (1, 10, 1, False, 2),
    (150, 100, 149, False, None),
])  # fmt: skip
def test_how_a_volume_grows(size: int, most: int, used_gib: int, no_room: bool, grown: int | None) -> None:
    assert grown_size(size, most, used_gib << 30, no_room=no_room) == grown


def test_it_cannot_be_meant_to_grow_to_less() -> None:
    with pytest.raises(ValidationError, match="at least size_gib"):
        JobVolumeConfiguration(size_gib=100, grow_to_gib=50)


@pytest.mark.parametrize(
    ("memory_gib", "size_gib", "throughput", "iops"),
    [(None, 100, 0, 0), (2, 100, 0, 0), (10, 100, 0, 0), (16, 100, 183, 0), (64, 242, 729, 0), (96, 338, 1000, 4000)],
)
def test_a_volume_that_nobody_sized_goes_by_the_memory_and_the_notice(
    memory_gib: int | None, size_gib: int, throughput: int, iops: int
) -> None:
    size, options = JobVolumeConfiguration().made_for(memory_gib and memory_gib << 10, keep=2)
    assert (size, options.throughput_mib_per_second, options.iops) == (size_gib, throughput, iops)
    assert not impossible("gp3", size, options)


def test_what_is_set_holds_whatever_the_memory() -> None:
    set_by_hand = JobVolumeConfiguration(size_gib=20, throughput_mib_per_second=300, iops=3500)
    assert set_by_hand.made_for(512 << 10, keep=2) == (20, set_by_hand.options)
    assert JobVolumeConfiguration(iops=3200).made_for(512 << 10, keep=2)[1].throughput_mib_per_second == 800
    assert JobVolumeConfiguration(volume_type="gp2").made_for(512 << 10, keep=2)[1] == VolumeOptions()


def test_what_a_volume_has_beyond_its_types_own_costs_more() -> None:
    prices = Prices()
    plain = month_rate(prices, "us-east-1", billed("gp3", 100, 3000, 125))
    fast = month_rate(prices, "us-east-1", billed("gp3", 100, 4000, 1000))
    assert plain is not None and fast is not None
    assert (plain.micros, fast.micros) == (8_000_000, 8_000_000 + 1000 * 5_000 + 875 * 40_000)
    assert billed("gp2", 100, 300, 0) == [("gp2", 100)], "gp2's operations come with its size"
    assert month_rate(prices, "eu-west-1", billed("gp3", 100, 0, 0)) is None
    known = Prices(storage={("gp3", "eu-west-1"): 88_000})
    assert month_rate(known, "eu-west-1", billed("gp3", 100, 0, 500)) is None, "a part without a price"


def test_a_volume_that_was_not_free_inside_the_notice_is_told_as_a_warning() -> None:
    ends = datetime(2026, 11, 1, 12, tzinfo=UTC)
    free = ("Volume vol-1 is free for the next instance.", "info")
    assert freed_in_words("vol-1", ends, ends) == freed_in_words("vol-1", None, ends) == free
    said, level = freed_in_words("vol-1", ends, ends + timedelta(seconds=61))
    assert level == "warning" and said.endswith("but not inside the notice: 61 s after its end.")
