"""Small rules of the domain: folder names, volumes, what may be dropped, the error tree."""

from __future__ import annotations

import inspect

from hypothesis import given
from hypothesis import strategies as st

from perdure.domain import errors
from perdure.domain.checkpoints import droppable
from perdure.domain.jobs import folder_name
from perdure.domain.volumes import JobVolume, VolumeStep, next_volume_step


@given(st.text(max_size=300))
def test_a_job_id_never_becomes_a_path(job_id: str) -> None:
    name = folder_name(job_id)
    assert 0 < len(name) <= 64
    assert all(letter.isascii() and (letter.isalnum() or letter == "-") for letter in name)


@given(st.text(max_size=50), st.text(max_size=50))
def test_two_jobs_never_share_a_folder(one: str, other: str) -> None:
    assert (folder_name(one) == folder_name(other)) == (one == other)


@given(st.lists(st.integers(1, 1000), unique=True), st.integers(-2, 20))
def test_the_newest_are_kept(numbers: list[int], keep: int) -> None:
    gone = droppable(numbers, keep)
    kept = set(numbers) - set(gone)
    assert len(kept) == min(len(numbers), max(1, keep))
    assert not gone or not kept or max(gone) < min(kept)


def test_one_that_shares_nothing_with_the_newest_is_kept() -> None:
    """Fault: one bad block spoilt every checkpoint that was left."""
    full = {1: 1, 2: 1, 3: 1, 4: 4, 5: 4, 6: 4}
    assert droppable([1, 2, 3, 4, 5, 6], 2, full) == [1, 2, 4]
    assert droppable([3, 4, 5, 6], 1, full) == [3, 4, 5], "one is all that was asked for"
    assert droppable([3, 4], 2, full) == []
    assert droppable([1, 2, 3], 2, full) == [1], "there is none"
    assert droppable([2, 3, 4], 2, full) == [2], "the two that stay share nothing with each other"
    assert droppable([1, 2, 3], 2, {1: 0, 2: 0, 3: 0}) == [1], "each whole one is for itself"


def test_volume_steps() -> None:
    volume = JobVolume(volume_id="vol-1", zone="a", size_gib=1, attached_to="i-1")
    assert next_volume_step(None, "a", "i-1") is VolumeStep.CREATE
    assert next_volume_step(volume, "a", "i-1") is VolumeStep.KEEP
    assert next_volume_step(volume, "a", "i-2") is VolumeStep.ATTACH
    assert next_volume_step(volume, "b", "i-2") is VolumeStep.MIGRATE


def test_the_error_tree_is_drawn_whole_in_its_docstring() -> None:
    classes = {name for name, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, Exception)}
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in classes)


def test_temporal_is_told_which_errors_not_to_repeat() -> None:
    assert "Fenced" in errors.NOT_RETRYABLE
    assert "CloudUnavailable" not in errors.NOT_RETRYABLE
