"""Incremental memory where the kernel has soft-dirty: chains restore to the byte, and nothing doubtful is built on."""

from __future__ import annotations

import pytest

from tests.vm.conftest import COLUMN, Call

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1000)]


@pytest.mark.row("Memory", "incremental: most copied before the freeze (predump)", column=COLUMN)
@pytest.mark.row("Memory", "incremental: only what changed since the checkpoint before", column=COLUMN)
def test_a_chain_of_checkpoints_is_small_and_restores_to_the_byte(in_vm: Call) -> None:
    found = in_vm("incremental:chain")
    assert found["same"]
    assert found["parents"] == [None, 1, 2, None], "three in a row, then a full one"
    full, *changed, rebased = found["KiB"]
    assert max(changed) < full / 4 and rebased > full * 0.9, found["KiB"]
    assert found["predumped"] == [False, False, True, False]
    assert found["kept"] == [4, 3]
    assert found["after the restore"] is None, "nobody knows what changed since"


@pytest.mark.matrix
@pytest.mark.row("Memory", "incremental: after a failed dump all of it, damaged parents refused", column=COLUMN)
def test_after_a_failed_dump_everything_is_saved_and_a_damaged_parent_is_refused(in_vm: Call) -> None:
    found = in_vm("incremental:final")
    assert found["failure"]
    assert found["same"]
    assert found["parents"] == [None, 1, None, None, 5], "the third is tried again whole, the fourth fails"
    assert min(found["KiB"][2:4]) > found["KiB"][0] * 0.9 and found["KiB"][4] < found["KiB"][3] / 4
    page, other, missing = found["refused"]
    assert "wrong checksum" in page
    assert "it says number 1" in other or "another has taken its place" in other
    assert "cannot be read" in missing
