"""Python's collector is held back while somebody is inside, and then works as before."""

from __future__ import annotations

import gc

import pytest

from perdure.garbage import rarely_collected


def test_what_was_set_before_is_set_again_when_the_last_one_leaves() -> None:
    before = gc.get_threshold()
    first, second = rarely_collected(), rarely_collected()
    with first:
        inside = gc.get_threshold()
        second.__enter__()
    assert gc.get_threshold() == inside != before
    second.__exit__(None, None, None)
    assert gc.get_threshold() == before


def test_it_is_left_by_an_error_too() -> None:
    before = gc.get_threshold()
    with pytest.raises(ValueError), rarely_collected():
        raise ValueError
    assert gc.get_threshold() == before
