"""Waits for something that another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    predicate: Callable[[], T], timeout: float = 90.0, *, what: str = "", interval: float = 0.03
) -> T:
    """Calls `predicate` until its answer is true.

    Args:
        predicate: What is asked for.
        timeout: Seconds until it is given up.
        what: What is waited for, in words, for the error.
        interval: Seconds between two calls.

    Returns:
        The first true answer.

    Raises:
        TimeoutError: if there was none in time. An exception of the predicate goes through.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"not after {timeout:g} s: {what or predicate}; the last answer was {answer!r}"
            )
        time.sleep(interval)
