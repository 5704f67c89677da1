"""What others send to a room while it is being repaired."""

from __future__ import annotations

from synapse.api.constants import RejectedReason
from synapse.events import EventBase
from synapse.events.snapshot import EventContext
from synapse.server import HomeServer
from synapse.types import get_domain_from_id

from synapse_rejection_repair.adapter.contexts import EventContexts


class Newcomers:
    """Looks at events again that were judged, maybe long, before it is their turn to be stored.

    The state before such an event was computed, and its authorization checked, as it came
    in, maybe by another process. What it cites or follows may have been accepted since.

    Args:
        hs: a homeserver process that writes events.
        contexts: computes states.
    """

    def __init__(self, hs: HomeServer, contexts: EventContexts) -> None:
        self._federation = hs.get_federation_event_handler()
        self._contexts = contexts

    async def renew(
        self, event: EventBase, context: EventContext, known: dict[str, int]
    ) -> EventContext:
        """What to store an event with; its rejection is taken back where it passes now.

        Args:
            event: an event that is about to be stored.
            context: what it came with.
            known: the state groups of those before it in its batch, by event id; the
                event's own is added.
        """
        renewed = await self._with_state_of_today(event, context, known)
        if renewed.rejected == RejectedReason.AUTH_ERROR:
            await self._judge_again(event, renewed)
        group = renewed.state_group_before_event if renewed.rejected else renewed.state_group
        if group is not None:
            known[event.event_id] = group
        return renewed

    async def _with_state_of_today(
        self, event: EventBase, context: EventContext, known: dict[str, int]
    ) -> EventContext:
        groups = await self._contexts.groups(event, known)
        prevs = event.prev_event_ids()
        distinct = set(groups.values())
        simple = len(distinct) == 1 and not event.is_state()
        if (
            any(p not in groups for p in prevs)
            or distinct == {context.state_group_before_event}
            # Synapse's own computation does not see what is not stored yet.
            or (not simple and any(p in known for p in prevs))
        ):
            return context
        renewed = await self._contexts.compute(event, groups, {})
        renewed.rejected = context.rejected
        renewed.app_service = context.app_service
        return renewed

    async def _judge_again(self, event: EventBase, context: EventContext) -> None:
        """Runs Synapse's own checks 4 to 6 once more.

        As `FederationEventHandler._process_received_pdu` does (read in Synapse 1.151.0 and
        1.163.2). Without a server to ask, it fails where a cited event is not stored.
        """
        before = context.rejected
        try:
            context.rejected = None
            await self._federation._check_event_auth(None, event, context)
            if not context.rejected:
                sender = get_domain_from_id(event.sender)
                await self._federation._check_for_soft_fail(event, context, origin=sender)
        except BaseException:
            context.rejected = before
            raise
