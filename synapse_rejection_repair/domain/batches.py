"""Taking many things a few at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batches(items: Iterable[T], size: int = 500) -> Iterator[list[T]]:
    """Cuts any iterable into lists of at most `size` items: by default as many as a query names."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
