"""Receiving rejected events anew: checked once more, and stored as if they had just come."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from synapse.api.constants import RejectedReason
from synapse.events import EventBase
from synapse.events.snapshot import EventContext
from synapse.server import HomeServer
from synapse.storage.database import LoggingTransaction
from synapse.types.state import StateFilter

from synapse_rejection_repair.adapter.arrivals import ArrivalHooks
from synapse_rejection_repair.adapter.borrowed import note_borrowed
from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.adapter.contexts import EventContexts
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.door import PersistenceDoor
from synapse_rejection_repair.adapter.failures import Failures, raise_unless_of_an_event
from synapse_rejection_repair.adapter.hooks import PersistenceHooks
from synapse_rejection_repair.adapter.resolved import ResolvedStates
from synapse_rejection_repair.adapter.tables import JOURNAL
from synapse_rejection_repair.adapter.takeaway import TakenAway, take_away
from synapse_rejection_repair.domain.model import StateIds, StateKey, Verdict
from synapse_rejection_repair.domain.plan import Plan
from synapse_rejection_repair.domain.repair import RepairJob
from synapse_rejection_repair.domain.spans import lowest_of
from synapse_rejection_repair.domain.steps import Action, Step
from synapse_rejection_repair.domain.traces import trace
from synapse_rejection_repair.ports import Clock, StateLookup

logger = logging.getLogger(__name__)


class Receiving:
    """Stores events of a plan anew, accepted or rejected.

    Args:
        hs: a homeserver process that writes events.
        database: its main database.
        contexts: computes the states before and after events.
        resolved: what processes remember of resolved states.
        hooks: into Synapse's persistence.
        arrivals: gives events the stream orderings that were set aside for them.
        failures: events that could not be stored.
        clock: tells the time.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        contexts: EventContexts,
        resolved: ResolvedStates,
        hooks: PersistenceHooks,
        arrivals: ArrivalHooks,
        failures: Failures,
        clock: Clock,
    ) -> None:
        self._store = hs.get_datastores().main
        self._door = PersistenceDoor(hs)
        self._database = database
        self._contexts = contexts
        self._resolved = resolved
        self._hooks = hooks
        self._arrivals = arrivals
        self._failures = failures
        self._orderings: dict[str, int] = {}
        self._clock = clock

    async def prepare(self, plan: Plan) -> None:
        """Sets stream orderings aside for what becomes history, which rise along it.

        Synapse's own fall, since it counts the orderings of the past down.
        """
        history = [s.node.event_id for s in plan.steps.some(lambda kind: kind.backfill)]
        spans = await self._arrivals.reserve(len(history))
        self._orderings.update(zip(history, lowest_of(spans, len(history)), strict=True))

    async def receive(
        self, job: RepairJob, steps: Sequence[Step], checker: EventChecker
    ) -> list[tuple[Step, Verdict]]:
        """Checks and stores events, as `RoomWriter.apply`.

        Args:
            job: what they are stored for.
            steps: the events, of one action and one way of delivery, parents first.
            checker: has them loaded.

        Returns:
            The steps that were decided, each with its verdict.
        """
        decided: list[tuple[Step, Verdict]] = []
        pairs: list[tuple[EventBase, EventContext]] = []
        known: dict[str, int] = {}
        force = job.request.scope.force
        looked_up: _LookedUp = {}
        changes_state = False
        try:
            for step in steps:
                node = step.node
                event = checker.event(node.event_id)
                if changes_state and await self._contexts.merges(event, known):
                    # Synapse resolves states with the events as they are stored, so those
                    # of this batch have to be stored first.
                    break
                context = await self._contexts.of(event, known, checker, step.state_before)
                lookup = None if node.outlier else _lookup(context, looked_up)
                verdict = await checker.check(node, lookup, force=node.event_id in force)
                decided.append((step, verdict))
                if verdict.outcome is not step.verdict.outcome:
                    break
                checker.decide(node.event_id, verdict.accepted)
                if verdict.accepted:
                    event.internal_metadata.soft_failed = step.verdict.soft_failed
                else:
                    context.rejected = RejectedReason.AUTH_ERROR
                group = (
                    context.state_group if verdict.accepted else context.state_group_before_event
                )
                if group is not None:
                    known[node.event_id] = group
                pairs.append((event, context))
                changes_state = changes_state or event.is_state()
                await self._clock.breathe()
            stored = await self._store_all(job, steps, pairs) if pairs else set()
        except BaseException:
            self._contexts.forget(known)
            raise
        if len(stored) == len(pairs):
            return decided
        self._contexts.forget(known.keys() - stored)
        return [
            (step, self._failures.verdict(step.node) or verdict)
            for step, verdict in decided
            if step.node.event_id in stored or self._failures.verdict(step.node)
        ]

    async def _store_all(
        self,
        job: RepairJob,
        steps: Sequence[Step],
        pairs: Sequence[tuple[EventBase, EventContext]],
    ) -> set[str]:
        """Stores events at once or, where Synapse fails at that, one by one.

        Returns:
            Those that are stored. Behind a state event at which it fails none is: the state
            there will be another one.
        """
        ids = [event.event_id for event, _ in pairs]
        try:
            await self._store_anew(job, steps, pairs)
            return {*ids}
        except Exception as e:
            raise_unless_of_an_event(self._database, e)
            logger.warning("%i events of %s are stored one by one", len(ids), job.room_id)
        # What was stored was stored in a transaction of its own, a hundred at a time.
        stored = await self._journalled(job, steps[0].action, ids)
        for step, pair in zip(steps, pairs, strict=False):
            event = pair[0]
            if event.event_id in stored:
                continue
            error = await self._store_alone(job, step, pair)
            if error is None:
                stored.add(event.event_id)
                continue
            logger.error("%s cannot be stored\n%s", event.event_id, trace(error))
            self._failures.note(job.room_id, event.event_id, error)
            if event.is_state():
                break
        return stored

    async def _store_alone(
        self, job: RepairJob, step: Step, pair: tuple[EventBase, EventContext]
    ) -> Exception | None:
        """Stores one event; gives what Synapse fails with, and goes on failing with.

        It may fail once for no fault of the event's: on SQLite, where Synapse was killed right
        after an event that came after some that had failed, it gives that one's stream ordering
        again (`MultiWriterIdGenerator._load_current_ids`, read in 1.151.0 and 1.163.2).
        """
        error = None
        for _ in range(2):
            try:
                await self._store_anew(job, [step], [pair])
                return None
            except Exception as e:
                raise_unless_of_an_event(self._database, e)
                error = e
        return error

    async def _journalled(self, job: RepairJob, action: Action, ids: Collection[str]) -> set[str]:
        clause, args = self._database.in_list("event_id", ids)
        rows = await self._database.rows(
            "journalled_of",
            f"SELECT event_id FROM {JOURNAL} WHERE job_id = ? AND action = ? AND {clause}",
            (job.job_id, action.value, *args),
        )
        return {event_id for (event_id,) in rows}

    async def _store_anew(
        self,
        job: RepairJob,
        steps: Sequence[Step],
        pairs: Sequence[tuple[EventBase, EventContext]],
    ) -> None:
        # What was accepted, however badly, may be in the search.
        accepted = {s.node.event_id for s in steps if s.node.damaged or s.node.soft_failed}
        borrowed = {s.node.event_id for s in steps if s.state_before is not None}
        action, now = steps[0].action.value, self._clock.now_ms()

        def take(txn: LoggingTransaction, event_ids: Collection[str]) -> TakenAway:
            # Every process may have cached the events as rejected and without state.
            self._store._invalidate_cache_and_stream_bulk(
                txn, self._store._get_state_group_for_event, [(i,) for i in event_ids]
            )
            if any(event.is_state() for event, _ in pairs):
                self._resolved.forget(txn)
            note_borrowed(txn, job, event_ids, borrowed, now)
            return take_away(
                txn, job.room_id, event_ids, accepted & set(event_ids), job.job_id, action, now
            )

        ids = [event.event_id for event, _ in pairs]
        orderings = {i: self._orderings[i] for i in ids if i in self._orderings}
        with (
            # All of them: what was redacted meanwhile relates to nothing any more.
            self._arrivals.arriving(ids, orderings, lambda txn, stored: None),
            self._hooks.storing_anew(ids, take),
        ):
            await self._door.store(pairs, backfilled=steps[0].backfill)
        for event_id in orderings:
            del self._orderings[event_id]


_LookedUp = dict[tuple[int, frozenset[StateKey]], StateIds]
"""Entries of state groups that were asked for before."""


def _lookup(context: EventContext, before: _LookedUp) -> StateLookup:
    group = context.state_group_before_event
    assert group is not None

    async def lookup(keys: Collection[StateKey]) -> StateIds:
        # Most events of a batch have one state before them, and few senders.
        known = (group, frozenset(keys))
        if known not in before:
            before[known] = await context.get_prev_state_ids(StateFilter.from_types(keys))
        return before[known]

    return lookup
