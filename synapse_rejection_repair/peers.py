"""Asking other servers of a room what they hold."""

from __future__ import annotations

import attr

from synapse_rejection_repair.domain.peers import PeerReport, report
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_peers import Peers


@attr.s(frozen=True, slots=True, auto_attribs=True)
class PeerSurvey:
    """Asks, and compares. Changes nothing, whatever is answered.

    Attributes:
        peers: the other servers.
        clock: runs what takes long in threads.
        most: how many servers may be asked about one event.
    """

    peers: Peers
    clock: Clock
    most: int

    async def of_event(self, event_id: str, count: int) -> tuple[str, PeerReport]:
        """What other servers say of an event; its room, too.

        Args:
            event_id: the event.
            count: how many servers to ask at most.

        Raises:
            UnknownEvent: this server does not have it.
        """
        room_id, sender = await self.peers.room_of(event_id)
        answers = await self.peers.ask(room_id, event_id, sender, min(count, self.most))
        ours = await self.peers.state_before(room_id, event_id)
        named = {i for answer in answers for i in answer.state_ids}
        keys = await self.peers.keys(named | {*ours.values()})
        return room_id, await self.clock.in_thread(report, answers, ours, keys)
