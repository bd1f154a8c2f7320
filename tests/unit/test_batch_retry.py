"""evaluateOnExit as AWS has it: examples from AWS's words, and properties over all rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcloud.aws.batch.retry import Ending, Strategy, parse_strategy
from localcloud.errors import AwsError
from perdure.domain.retries import RetryRule, RetryStrategy, would_retry

LOST = Ending(status_reason="Host EC2 (instance i-0abc) terminated.")
KILLED = Ending(137, None, "Essential container in task exited")
MEMORY = Ending(137, "OutOfMemoryError: Container killed due to memory usage", "Essential container in task exited")
PULL = Ending(None, "CannotPullContainerError: no such image", "Task failed to start")
FAILED = Ending(1, None, "Essential container in task exited")

HOST = {"onStatusReason": "Host EC2*", "action": "RETRY"}
REST = {"onReason": "*", "action": "EXIT"}
NO_MEMORY = {"onReason": "OutOfMemory*", "action": "EXIT"}
ENDED = {"onExitCode": "137", "action": "RETRY"}
REST_CODES = {"onExitCode": "*", "action": "EXIT"}


@pytest.mark.parametrize(
    ("rules", "ending", "again"),
    [
        ([], FAILED, True),  # no rules: attempts alone decide
        ([HOST], LOST, True),
        ([HOST], FAILED, True),  # no rule matches: retried
        ([HOST, REST], LOST, True),
        ([HOST, REST], FAILED, False),  # a lone * matches an absent reason
        ([HOST, REST], KILLED, False),
        ([REST, HOST], LOST, False),  # the first that matches decides
        ([NO_MEMORY, HOST, ENDED, REST_CODES], MEMORY, False),
        ([NO_MEMORY, HOST, ENDED, REST_CODES], KILLED, True),
        ([NO_MEMORY, HOST, ENDED, REST_CODES], LOST, True),
        ([NO_MEMORY, HOST, ENDED, REST_CODES], FAILED, False),
        ([{"onReason": "CannotPull*", "action": "retry"}, REST], PULL, True),  # actions in any case
        ([{"onStatusReason": "host ec2*", "action": "EXIT"}], LOST, False),  # reasons in any case
        ([{"onStatusReason": "Host EC2", "action": "EXIT"}], LOST, True),  # exact without a *
        ([{"onExitCode": "13*", "action": "EXIT"}], KILLED, False),
        ([{"onExitCode": "1", "action": "EXIT"}], LOST, True),  # no exit code, no match
        ([{"onExitCode": "137", "onReason": "OutOf*", "action": "EXIT"}], KILLED, True),  # conditions are ANDed
        ([{"onExitCode": "137", "onReason": "OutOf*", "action": "EXIT"}], MEMORY, False),
    ],
)
def test_rules(rules: list[dict[str, str]], ending: Ending, again: bool) -> None:
    assert parse_strategy({"attempts": 2, "evaluateOnExit": rules}).retries(ending) is again


@pytest.mark.parametrize(
    "given_",
    [
        {"attempts": 0},
        {"attempts": 11},
        {"attempts": "3"},
        {"evaluateOnExit": [HOST] * 6},
        {"evaluateOnExit": [{"onReason": "*", "action": "STOP"}]},
        {"evaluateOnExit": [{"onReason": "*"}]},
        {"evaluateOnExit": [{"onReason": "a*b", "action": "EXIT"}]},
        {"evaluateOnExit": [{"onReason": "", "action": "EXIT"}]},
    ],
)
def test_what_aws_refuses(given_: dict[str, object]) -> None:
    with pytest.raises(AwsError):
        parse_strategy(given_)


def test_without_a_strategy_there_is_one_attempt() -> None:
    assert parse_strategy(None) == Strategy(1, [])


reasons = st.sampled_from([None, "", "Host EC2 (instance i-1) terminated.", "OutOfMemoryError: x", "Essential", "ess"])
endings = st.builds(Ending, st.sampled_from([None, 0, 1, 13, 137]), reasons, reasons)
patterns = st.sampled_from(["*", "1*", "137", "13", "Host EC2*", "host*", "OutOfMemory*", "Essential", "ESS*", "zzz"])
rule = st.fixed_dictionaries(
    {"action": st.sampled_from(["RETRY", "EXIT", "retry", "exit"])},
    optional={"onExitCode": patterns, "onReason": patterns, "onStatusReason": patterns},
)
rule_lists = st.lists(rule, max_size=5)


@given(rule_lists, endings)
def test_a_catch_all_at_the_end_leaves_nothing_to_chance(rules: list[dict[str, str]], ending: Ending) -> None:
    stopping = Strategy(2, [*rules, {"onReason": "*", "action": "EXIT"}])
    trying = Strategy(2, [*rules, {"onReason": "*", "action": "RETRY"}])
    # Whatever the catch-all says, it never overrules a rule before it.
    assert trying.retries(ending) or not stopping.retries(ending)
    assert Strategy(2, rules).retries(ending) == trying.retries(ending)


@given(rule_lists, rule, endings)
def test_rules_after_the_first_match_do_not_count(
    rules: list[dict[str, str]], late: dict[str, str], ending: Ending
) -> None:
    decided = [{"onStatusReason": "*", "action": "EXIT"}]
    assert Strategy(2, [*decided, *rules, late]).retries(ending) is False


@given(rule_lists, endings)
def test_the_products_reading_of_the_rules_is_the_same(rules: list[dict[str, str]], ending: Ending) -> None:
    """Two programs written from the same words: the agent's choice of a hand-over rests on their agreeing."""
    products = RetryStrategy(
        attempts=2,
        rules=[
            RetryRule(
                action=rule["action"],
                on_exit_code=rule.get("onExitCode"),
                on_reason=rule.get("onReason"),
                on_status_reason=rule.get("onStatusReason"),
            )
            for rule in rules
        ],
    )
    told, _ = would_retry(
        products, exit_code=ending.exit_code, reason=ending.reason, status_reason=ending.status_reason
    )
    assert told == Strategy(2, rules).retries(ending)
