"""Rates, faults and throttling of the local EBS: what is drawn is drawn by the seed."""

from __future__ import annotations

import pytest

from localcloud.aws.cloud_config import Timing
from localcloud.aws.ebs_conditions import EbsConditions, EbsRequest, Fault, FaultKind
from localcloud.errors import AwsError, Refused


class Hand:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def conditions(hand: Hand | None = None) -> EbsConditions:
    return EbsConditions(Timing(), hand or Hand())


def test_the_usual_rates_are_the_configured_ones_and_draw_nothing() -> None:
    usual = conditions()
    assert usual.rates.attach == Timing().attach and usual.delay(usual.rates.attach) == Timing().attach
    assert usual.snapshot_seconds(2**40) == Timing().snapshot, "however much is in it"
    for _ in range(10_000):
        usual.check("DetachVolume")


def test_the_same_seed_draws_the_same_delays() -> None:
    drawn = []
    for seed in (7, 7, 8):
        slow = conditions()
        slow.change(EbsRequest(profile="documented", seed=seed))
        drawn.append([slow.delay(slow.rates.attach) for _ in range(5)])
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(0.8 * 6.6 <= seconds <= 1.2 * 6.6 for seconds in drawn[0] + drawn[2])


def test_a_snapshot_takes_its_time_by_what_it_moves() -> None:
    slow = conditions()
    slow.change(EbsRequest(profile="documented", rates={"spread": 0, "snapshot": 5, "snapshot_mib_per_second": 10}))
    assert slow.snapshot_seconds(0) == 5 and slow.snapshot_seconds(100 << 20) == 15


def test_calls_are_limited_for_each_action_apart() -> None:
    hand = Hand()
    slow = conditions(hand)
    slow.change(EbsRequest(rates={"mutations_per_second": 2, "mutations_burst": 3}))
    for action in ("AttachVolume", "DetachVolume"):
        for _ in range(3):
            slow.check(action)
        with pytest.raises(AwsError) as refusal:
            slow.check(action)
        assert (refusal.value.code, refusal.value.status) == ("RequestLimitExceeded", 503)
    slow.check("DescribeVolumes")
    hand.now += 0.5
    slow.check("AttachVolume")
    with pytest.raises(AwsError):
        slow.check("AttachVolume")
    assert slow.describe()["throttled"] == {"AttachVolume": 2, "DetachVolume": 1}


def test_a_fault_strikes_as_often_as_it_was_asked_to() -> None:
    slow = conditions()
    slow.add(Fault(kind=FaultKind.STUCK_DETACHING, volume_id="vol-1", times=2))
    assert not slow.strikes(FaultKind.STUCK_DETACHING, "vol-2")
    assert not slow.strikes(FaultKind.STUCK_ATTACHING, "vol-1")
    assert [bool(slow.strikes(FaultKind.STUCK_DETACHING, "vol-1")) for _ in range(3)] == [True, True, False]
    slow.add(Fault(kind=FaultKind.THROTTLE, action="CreateSnapshot", times=0))
    for _ in range(5):
        with pytest.raises(AwsError):
            slow.check("CreateSnapshot")
    slow.clear()
    slow.check("CreateSnapshot")


@pytest.mark.parametrize("wrong", [{"profile": "slow"}, {"rates": {"speed": 1}}, {"rates": {"attach": -1}}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    usual = conditions()
    before = usual.rates
    with pytest.raises(Refused):
        usual.change(EbsRequest.model_validate(wrong))
    assert usual.rates == before
