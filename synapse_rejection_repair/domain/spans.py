"""Ranges of stream orderings: set aside for an import, and used up from the lowest."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

Span = tuple[int, int]
"""From the lowest stream ordering to the highest, both included."""


def lowest_of(spans: Iterable[Span], count: int) -> list[int]:
    """The lowest numbers of some ranges, rising; fewer where they do not have so many."""
    found: list[int] = []
    for low, high in sorted(spans):
        found.extend(range(low, min(high, low + count - len(found) - 1) + 1))
        if len(found) >= count:
            break
    return found


def without(spans: Iterable[Span], numbers: Iterable[int]) -> tuple[Span, ...]:
    """What is left of some ranges, rising, when some numbers are taken out."""
    left: list[Span] = []
    taken = sorted(numbers)
    for low, high in sorted(spans):
        for number in taken[bisect_left(taken, low) : bisect_right(taken, high)]:
            if low < number:
                left.append((low, number - 1))
            low = number + 1
        if low <= high:
            left.append((low, high))
    return tuple(left)


def spans_of(numbers: Iterable[int]) -> tuple[Span, ...]:
    """Some numbers as ranges, rising."""
    spans: list[Span] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number - 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return tuple(spans)


def together(some: Iterable[Span], others: Iterable[Span]) -> tuple[Span, ...]:
    """The ranges of numbers that are in one of two, rising, and as few as can be."""
    spans: list[Span] = []
    for low, high in sorted((*some, *others)):
        if spans and spans[-1][1] >= low - 1:
            spans[-1] = (spans[-1][0], max(spans[-1][1], high))
        else:
            spans.append((low, high))
    return tuple(spans)
