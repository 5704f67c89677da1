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
from typing_extensions import override

from synapse_rejection_repair.ports import Clock

T = TypeVar("T")
_SLICE = 0.001
"""How long a task may hold the reactor before it gives way, in seconds."""


class ReactorClock(Clock):
    """Synapse's clock.

    Args:
        hs: the homeserver.
    """

    def __init__(self, hs: HomeServer) -> None:
        self._clock = hs.get_clock()
        self._reactor = hs.get_reactor()
        self._since = time.monotonic()

    @override
    def now_ms(self) -> int:
        return int(self._clock.time_msec())

    @override
    async def pause(self, seconds: float = 0) -> None:
        await self._clock.sleep(Duration(seconds=seconds))
        self._since = time.monotonic()

    @override
    async def breathe(self) -> None:
        if time.monotonic() - self._since > _SLICE:
            await self.pause()

    @override
    async def in_thread(self, func: Callable[..., T], *args: object) -> T:
        result: T = await defer_to_thread(self._reactor, func, *args)
        return result

    @override
    def from_thread(self, func: Callable[[], None]) -> Callable[[], None]:
        context = current_context()

        def run() -> None:
            with PreserveLoggingContext(context):
                func()

        return lambda: self._reactor.callFromThread(run)

    @override
    def begin(self, work: Callable[[], Awaitable[T]]) -> Awaitable[T]:
        running = run_in_background(work)

        async def result() -> T:
            return await make_deferred_yieldable(running)

        return result()
