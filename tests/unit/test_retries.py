"""Retry rules as the product reads them, and the hand-over they allow."""

from __future__ import annotations

import pytest

from perdure.domain.retries import HandOver, RetryRule, RetryStrategy, choose_hand_over, would_retry

OOM = RetryRule(action="EXIT", on_reason="OutOfMemory*")
HOST = RetryRule(action="RETRY", on_status_reason="Host EC2*")
KILLED = RetryRule(action="RETRY", on_exit_code="137")
ELSE_EXIT = RetryRule(action="EXIT", on_reason="*")
STANDARD = RetryStrategy(attempts=10, rules=[OOM, HOST, KILLED, RetryRule(action="EXIT", on_exit_code="*")])
NEXTFLOW = RetryStrategy(attempts=5, rules=[HOST, ELSE_EXIT])


def test_a_reclaim_is_retried_by_the_host_rule() -> None:
    verdict, rule = would_retry(
        STANDARD, exit_code=None, reason=None, status_reason="Host EC2 (instance i-0abc) terminated."
    )
    assert verdict
    assert rule == "rule 2, `Host EC2*`"


def test_out_of_memory_keeps_its_own_rule_though_it_is_137_too() -> None:
    verdict, _ = would_retry(
        STANDARD, exit_code=137, reason="OutOfMemoryError: Container killed due to memory usage", status_reason="x"
    )
    assert not verdict


def test_the_conditions_of_one_rule_are_anded() -> None:
    both = RetryStrategy(attempts=3, rules=[RetryRule(action="EXIT", on_exit_code="1", on_reason="Bad*")])
    assert not would_retry(both, exit_code=1, reason="Bad input", status_reason=None)[0]
    assert would_retry(both, exit_code=1, reason="Other", status_reason=None)[0]


def test_no_match_and_no_rules_retry() -> None:
    assert would_retry(RetryStrategy(attempts=2), exit_code=1, reason=None, status_reason=None)[0]
    assert would_retry(RetryStrategy(attempts=2, rules=[HOST]), exit_code=1, reason=None, status_reason="x")[0]


@pytest.mark.parametrize(
    ("strategy", "attempts_made", "way"),
    [
        (STANDARD, 1, HandOver.END_CONTAINER),
        (STANDARD, 9, HandOver.END_CONTAINER),
        (STANDARD, 10, HandOver.KEEP_ONLY),
        (NEXTFLOW, 1, HandOver.STAY_FROZEN),
        (RetryStrategy(attempts=3), 1, HandOver.END_CONTAINER),
        (RetryStrategy(attempts=1), 1, HandOver.KEEP_ONLY),
    ],
)
def test_hand_over(strategy: RetryStrategy, attempts_made: int, way: HandOver) -> None:
    assert choose_hand_over(strategy, attempts_made) is way


def test_the_ecs_agent_is_stopped_only_where_that_helps_and_the_node_can() -> None:
    neither = RetryStrategy(attempts=5, rules=[RetryRule(action="EXIT", on_reason="*")])
    for strategy, attempts_made, way in (
        (NEXTFLOW, 1, HandOver.STOP_ECS),
        (STANDARD, 1, HandOver.END_CONTAINER),
        (neither, 1, HandOver.STAY_FROZEN),
        (NEXTFLOW, NEXTFLOW.attempts, HandOver.KEEP_ONLY),
    ):
        assert choose_hand_over(strategy, attempts_made, can_stop_ecs=True) is way
