"""How often somebody may fail, and how many lines a flood gets."""

from __future__ import annotations

import pytest

from api.auth.rate_limit import OTHERS, FailedTries, Refusals
from perdure.domain.errors import TooManyTries


def fail(tries: FailedTries, times: int, address: str = "192.0.2.1", user: str = "ann", now: float = 0.0) -> None:
    for _ in range(times):
        tries.check(address, user, now)
        tries.failed(address, user, now)


def test_after_some_failures_the_next_has_to_wait() -> None:
    tries = FailedTries(burst=3, seconds_each=10)
    fail(tries, 3)
    with pytest.raises(TooManyTries, match="try again in 10 s") as refusal:
        tries.check("192.0.2.1", "ann", 0.0)
    assert refusal.value.retry_after_seconds == 10
    with pytest.raises(TooManyTries):
        tries.check("192.0.2.1", "ann", 9.9)
    fail(tries, 1, now=10.0)
    with pytest.raises(TooManyTries):
        tries.check("192.0.2.1", "ann", 10.1)


def test_names_and_addresses_count_apart() -> None:
    tries = FailedTries(burst=3, seconds_each=10)
    fail(tries, 3)
    with pytest.raises(TooManyTries):
        tries.check("192.0.2.9", "Ann", 0.0)  # one name from everywhere
    with pytest.raises(TooManyTries):
        tries.check("192.0.2.1", "bob", 0.0)  # many names from one place
    tries.check("192.0.2.9", "bob", 0.0)


def test_a_network_of_ipv6_addresses_counts_as_one() -> None:
    tries = FailedTries(burst=3, seconds_each=10)
    for number in range(3):
        fail(tries, 1, address=f"2001:db8::{number}", user=f"user {number}")
    with pytest.raises(TooManyTries):
        tries.check("2001:db8::ffff", "bob", 0.0)
    tries.check("2001:db8:0:1::1", "bob", 0.0)
    tries.check("not an address", "bob", 0.0)


def test_a_success_forgives_the_name_and_not_the_address() -> None:
    tries = FailedTries(burst=3, seconds_each=10)
    fail(tries, 3)
    tries.succeeded("192.0.2.1", "ann")
    tries.check("192.0.2.9", "ann", 0.0)
    with pytest.raises(TooManyTries):
        tries.check("192.0.2.1", "bob", 0.0)


def test_memory_is_bounded() -> None:
    tries = FailedTries(most_keys=50)
    for number in range(1000):
        tries.failed(f"192.0.2.{number % 250}", f"user {number}" * 100, 0.0)
    assert len(tries) == 50


def test_a_flood_gets_a_few_lines_and_is_counted() -> None:
    refusals = Refusals(each=3, all_together=5, most_addresses=2)
    assert [refusals.admit("a", 0.0) for _ in range(10)].count(True) == 3
    assert [refusals.admit("b", 1.0) for _ in range(10)].count(True) == 2  # the others of the five
    assert not refusals.admit("c", 2.0) and not refusals.admit("d", 3.0)
    assert refusals.take_counts() == {"a": 7, "b": 8, OTHERS: 2}
    assert refusals.take_counts() == {}
    assert refusals.admit("a", 60.0)
