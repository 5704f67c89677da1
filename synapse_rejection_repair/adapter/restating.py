"""Giving accepted events the state that follows from what was repaired before them."""

from __future__ import annotations

from collections.abc import Sequence

from synapse.api.constants import RejectedReason
from synapse.events import EventBase
from synapse.events.snapshot import EventContext
from synapse.server import HomeServer
from synapse.storage.database import LoggingTransaction
from synapse.types.state import StateFilter

from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.adapter.contexts import EventContexts
from synapse_rejection_repair.adapter.dag import SynapseDag
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.journal import journal
from synapse_rejection_repair.adapter.replaced_state import note_replaced
from synapse_rejection_repair.domain.model import StateKey
from synapse_rejection_repair.domain.repair import RepairJob
from synapse_rejection_repair.domain.steps import Action, Step
from synapse_rejection_repair.ports import Clock


class Restating:
    """Gives events new states.

    Args:
        hs: a homeserver process that writes events.
        database: its main database.
        dag: reads rooms.
        contexts: computes the states before and after events.
        clock: tells the time.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        dag: SynapseDag,
        contexts: EventContexts,
        clock: Clock,
    ) -> None:
        self._stores = hs.get_datastores()
        self._store = self._stores.main
        self._database = database
        self._dag = dag
        self._contexts = contexts
        self._clock = clock

    async def restate(self, job: RepairJob, steps: Sequence[Step], checker: EventChecker) -> None:
        """Gives events the states that follow from the events before them, in one transaction.

        Args:
            job: what it is done for.
            steps: the events, parents first.
            checker: has them loaded.
        """
        known: dict[str, int] = {}
        try:
            await self._restate(job, steps, checker, known)
        except BaseException:
            self._contexts.forget(known)
            raise

    async def _restate(
        self, job: RepairJob, steps: Sequence[Step], checker: EventChecker, known: dict[str, int]
    ) -> None:
        pairs: list[tuple[EventBase, EventContext]] = []
        replaced: dict[str, str | None] = {}
        for step in steps:
            event = checker.whatever_is_stored(step.node.event_id)
            context = await self._contexts.of(event, known, checker)
            if step.node.rejected:
                context.rejected = RejectedReason.AUTH_ERROR
            elif (key := event.get_state_key()) is not None:
                entry = await _entry(context, (event.type, key))
                # Else the state before it is not known, but only that after it.
                if entry != step.node.event_id:
                    replaced[step.node.event_id] = entry
            group = context.state_group_before_event if step.node.rejected else context.state_group
            assert group is not None
            known[step.node.event_id] = group
            pairs.append((event, context))
            await self._clock.breathe()
        before = await self._dag.state_groups(known)
        now = self._clock.now_ms()

        def restate(txn: LoggingTransaction) -> None:
            journal(txn, job.job_id, Action.RESTATE.value, now, before.items())
            txn.execute_batch(
                "UPDATE event_to_state_groups SET state_group = ? WHERE event_id = ?",
                [(group, event_id) for event_id, group in known.items()],
            )
            self._store._invalidate_cache_and_stream_bulk(
                txn, self._store._get_state_group_for_event, [(i,) for i in known]
            )
            if note_replaced(txn, job.job_id, now, replaced):
                self._store._invalidate_caches_for_room_events_and_stream(txn, job.room_id)

        async with self._stores.state_deletion.persisting_state_group_references(pairs):
            await self._database.run("restate", restate)


async def _entry(context: EventContext, key: StateKey) -> str | None:
    """What the state before an event holds under a key."""
    return (await context.get_prev_state_ids(StateFilter.from_types([key]))).get(key)
