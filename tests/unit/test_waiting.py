"""Waiting for a condition: its value comes back; the limit is a TimeoutError that says for what."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from localcloud.stack.waiting import free_port
from perdure.waiting import until, until_async


def _blocking(look: Callable[[], Any], limit: float, what: str = "") -> Any:
    return until(look, limit, 0.001, what)


def _async(look: Callable[[], Any], limit: float, what: str = "") -> Any:
    work: Coroutine[Any, Any, Any] = until_async(look, limit, 0.001, what)
    return asyncio.run(work)


@pytest.mark.parametrize("wait", [_blocking, _async])
def test_the_first_true_answer_comes_back(wait: Callable[..., Any]) -> None:
    answers = iter([0, "", [], "here"])
    assert wait(lambda: next(answers), 60) == "here"
    assert wait(lambda: "at once", 0) == "at once", "asked at least once"


@pytest.mark.parametrize("wait", [_blocking, _async])
def test_the_limit_says_what_did_not_come(wait: Callable[..., Any]) -> None:
    looks: list[int] = []
    with pytest.raises(TimeoutError, match=r"not within 0\.01 s: a train"):
        wait(lambda: looks.append(1), 0.01, "a train")
    assert len(looks) >= 2, "and once more at the end"


@pytest.mark.parametrize("wait", [_blocking, _async])
def test_what_the_look_raises_is_raised(wait: Callable[..., Any]) -> None:
    with pytest.raises(ZeroDivisionError):
        wait(lambda: 1 // 0, 60)


async def test_a_look_may_wait_itself() -> None:
    answers = iter([0, 0, 7])

    async def look() -> int:
        await asyncio.sleep(0)
        return next(answers)

    assert await until_async(look, 60, 0.001) == 7


def test_a_port_that_a_server_is_to_have_is_given_to_nobody_else() -> None:
    """Fault: a port that was free a moment ago was another's when the server began."""
    port = free_port()
    with socket.socket() as any_other, pytest.raises(OSError, match="in use"):
        any_other.bind(("127.0.0.1", port))
    socket.create_server(("127.0.0.1", port)).close()  # with SO_REUSEADDR, as servers do
