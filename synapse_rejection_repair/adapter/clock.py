"""Time, and giving way to everything else that runs in Synapse's reactor."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from synapse.logging.context import (
    PreserveLoggingContext,
    current_context,
    defer_to_thread,
    make_deferred_yieldable,
    run_in_background,
)
from synapse.server import HomeServer
from synapse.util.duration import Duration

T = TypeVar("T")
_SLICE = 0.003
"""How long a task may hold the reactor before it gives way, in seconds."""


class ReactorClock:
    """Synapse's clock.

    Args:
        hs: the homeserver.
    """

    def __init__(self, hs: HomeServer) -> None:
        self._clock = hs.get_clock()
        self._reactor = hs.get_reactor()
        self._since = time.monotonic()

    def now_ms(self) -> int:
        """The time in milliseconds since the epoch."""
        return int(self._clock.time_msec())

    async def pause(self, seconds: float = 0) -> None:
        """Lets everything else run, for at least that many seconds."""
        await self._clock.sleep(Duration(seconds=seconds))
        self._since = time.monotonic()

    async def breathe(self) -> None:
        """Lets everything else run, if this task has held the reactor for long."""
        if time.monotonic() - self._since > _SLICE:
            await self.pause()

    async def in_thread(self, func: Callable[..., T], *args: object) -> T:
        """Runs a pure function of much data in a thread."""
        result: T = await defer_to_thread(self._reactor, func, *args)
        return result

    def from_thread(self, func: Callable[[], None]) -> Callable[[], None]:
        """Gives what any thread may call to have a function called where everything else runs."""
        context = current_context()

        def run() -> None:
            with PreserveLoggingContext(context):
                func()

        return lambda: self._reactor.callFromThread(run)

    def begin(self, work: Callable[[], Awaitable[T]]) -> Awaitable[T]:
        """Begins some work at once; gives what to await its result by, which must be done."""
        running = run_in_background(work)

        async def result() -> T:
            return await make_deferred_yieldable(running)

        return result()
