"""Doing the next thing while the last one is waited for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from contextlib import suppress
from typing import Generic, TypeVar

from synapse_rejection_repair.ports import Clock

T = TypeVar("T")


class Ahead(Generic[T]):
    """What an iterator gives, of which the next item can be begun before it is asked for.

    Args:
        clock: begins it.
        items: the iterator.
    """

    def __init__(self, clock: Clock, items: AsyncGenerator[T, None]) -> None:
        self._clock = clock
        self._items = items
        self._coming: Awaitable[T | None] | None = None

    def begin(self) -> None:
        """Begins the next item, unless that was done."""
        if self._coming is None:
            self._coming = self._clock.begin(self._following)

    async def next(self) -> T | None:
        """The next item, `None` at the end."""
        self.begin()
        coming, self._coming = self._coming, None
        assert coming is not None
        return await coming

    async def close(self) -> None:
        """Ends the iterator, once what was begun in vain is over."""
        coming, self._coming = self._coming, None
        with suppress(Exception):
            if coming is not None:
                await coming
        await self._items.aclose()

    async def _following(self) -> T | None:
        # Not with the default of `anext`: Python 3.11 then trips over whatever truly waits.
        try:
            return await anext(self._items)
        except StopAsyncIteration:
            return None
