"""TCP connections inside a job on Linux 6.1, whose timers cannot be bounded."""

from __future__ import annotations

import pytest

from tests.vm.conftest import COLUMN, Call

pytestmark = [pytest.mark.vm, pytest.mark.matrix, pytest.mark.timeout(1000)]


@pytest.mark.row("Network", "TCP inside the machine with full buffers, a reader that begins 75 s later", column=COLUMN)
def test_what_was_not_sent_goes_on_at_once_however_late_the_reader_begins(in_vm: Call) -> None:
    said = in_vm("connections:late_reader", 75)
    assert said[:4] == ["full", "not sent True True", "all True", "all True"]
    assert len(said) == 5, said
