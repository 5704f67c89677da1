"""Beginning what needs the database, which may have trouble just then."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from synapse_rejection_repair.domain.traces import trace
from synapse_rejection_repair.ports import Clock

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 2.0
"""How long to wait before another attempt, in seconds; twice as long each time that it fails."""
_LONGEST_PAUSE_SECONDS = 60.0


async def until_it_succeeds(
    name: str,
    step: Callable[[], Awaitable[None]],
    clock: Clock,
    trouble: Callable[[Exception], str | None],
) -> None:
    """Takes a step, again and again where it fails: nobody else would take it.

    Args:
        name: what the log calls it.
        step: the step; whatever it has done before it fails may be done again.
        clock: lets time pass.
        trouble: says, of an error, what is wrong with the database for the time being;
            `None` if that is not what it tells of.
    """
    pause = _PAUSE_SECONDS
    while True:
        try:
            await step()
        except Exception as e:
            reason = trouble(e)
            if reason is None:
                logger.error("%s: failed, and is tried again\n%s", name, trace(e))
            else:
                logger.warning("%s: waits: %s", name, reason)
        else:
            return
        await clock.pause(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
