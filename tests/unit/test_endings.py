"""Whether the next attempt goes on or starts clean."""

from __future__ import annotations

import pytest

from perdure.domain.endings import Ending, ended_by_itself
from perdure.domain.volumes import client_token

LOST = "Host EC2 (instance i-0123) terminated."


@pytest.mark.parametrize(
    ("ending", "by_itself"),
    [
        (Ending(), False),
        (Ending(started=True), False),
        (Ending(exit_code=1), True),
        (Ending(exit_code=0), True),
        (Ending(started=True, exit_reported=True), True),
        (Ending(exit_reported=True), False),  # it never started: nothing was done
        (Ending(status_reason=LOST), False),
        (Ending(started=True, exit_reported=True, status_reason=LOST), False),  # a shutdown stops containers
        (Ending(handed_over=True, exit_code=137), False),
        (Ending(handed_over=True, exit_code=1, exit_reported=True), False),
        (Ending(exit_code=137), False),  # a hand-over whose report was never sent
        (Ending(exit_code=137, exit_reported=True), True),
        (Ending(exit_code=137, reason="OutOfMemoryError: Container killed due to memory usage"), True),
        (Ending(exit_code=143, status_reason="Essential container in task exited"), True),
    ],
)
def test_endings(ending: Ending, by_itself: bool) -> None:
    assert ended_by_itself(ending) is by_itself


def test_tokens_fit_ec2_and_differ_by_part() -> None:
    tokens = [client_token("a", "b"), client_token("ab", ""), client_token("a\nb"), client_token("a", "b", 0)]
    assert len(set(tokens)) == 4 and client_token("a", "b") == tokens[0]
    assert all(token.isascii() and len(token) <= 64 for token in [*tokens, client_token("ü" * 10_000, "\udcff")])
