"""Sorting much, in a thread, without stopping the rest of the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import merge
from typing import TYPE_CHECKING, Any, TypeVar

from synapse_rejection_repair.domain.batches import batches

if TYPE_CHECKING:
    from _typeshed import SupportsRichComparison

T = TypeVar("T")
_PIECE = 2000
"""How many items are sorted at a time."""
_LONG = 8_000
"""Of how many items pieces consist at most that are joined at a time."""
_LONG_OF_NUMBERS = 16 * _LONG


def sorted_in_pieces(
    items: Iterable[T], *, key: Callable[[T], SupportsRichComparison] | None = None
) -> list[T]:
    """The items in their order; those that are equal stay in the order in which they came.

    Args:
        items: what is to be sorted.
        key: gives what an item is sorted by; `None` for itself.

    Python's own sort lets no other thread run until it is done. It is quick where its input
    consists of two sorted halves: so pieces are sorted, then joined in pairs as long as they
    are short, and the long ones item by item.
    """
    return _sorted(items, key, _LONG)


def sorted_numbers(numbers: Iterable[int]) -> list[int]:
    """Numbers in their order; they are compared so fast that longer pieces are joined."""
    return _sorted(numbers, None, _LONG_OF_NUMBERS)


def _sorted(
    items: Iterable[T], key: Callable[[T], SupportsRichComparison] | None, long: int
) -> list[T]:
    runs: list[list[Any]] = []
    for run in batches(items, _PIECE):
        run.sort(key=key)
        runs.append(run)
    while len(runs) > 1 and len(runs[0]) < long:
        joined = []
        for place in range(0, len(runs), 2):
            run = [*runs[place], *(runs[place + 1] if place + 1 < len(runs) else ())]
            run.sort(key=key)
            joined.append(run)
        runs = joined
    return runs[0] if len(runs) == 1 else list(merge(*runs, key=key))
