"""A proof: checks of what users can see and do, the first of which that fails ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from tests.harness.client import MatrixError

T = TypeVar("T")


class NotWhole(Exception):
    """B is not as A."""


def same(a: object, b: object, what: str) -> None:
    """Raises `NotWhole` unless what A has and what B has are the same."""
    if a != b:
        raise NotWhole(f"{what}: A has {str(a)[:500]}, B has {str(b)[:500]}")


def prove(checks: Mapping[str, Callable[[T], str]], of: T) -> Iterator[tuple[str, str]]:
    """Makes every check, and yields what holds with what was seen.

    Raises:
        NotWhole: with the check that fails.
    """
    for what, check in checks.items():
        try:
            yield what, check(of)
        except (NotWhole, MatrixError) as e:
            raise NotWhole(f"Not so: {what}. {e}") from None
