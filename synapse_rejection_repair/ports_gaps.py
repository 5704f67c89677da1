"""What filling gaps asks of the outer layers: a Protocol that `adapter` implements."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from synapse_rejection_repair.domain.gaps import Gap


class GapFiller(Protocol):
    """Gets events that this server has never stored from other servers."""

    async def fill(
        self, room_id: str, gaps: Sequence[Gap], cancelled: Callable[[], Awaitable[bool]]
    ) -> int:
        """Asks other servers for missing events, and for what is missing behind them.

        Args:
            room_id: the room.
            gaps: what is missing.
            cancelled: whether to stop.

        Returns:
            How many events have come. A server that does not answer is no error.
        """
