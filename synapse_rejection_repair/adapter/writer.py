"""Carrying a plan out on the process that writes the room's events: the `RoomWriter`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager

from synapse.api.constants import EventTypes
from synapse.server import HomeServer
from synapse.storage.database import LoggingTransaction
from typing_extensions import override

from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.failures import Failures
from synapse_rejection_repair.adapter.hooks import PersistenceHooks
from synapse_rejection_repair.adapter.journal import journal
from synapse_rejection_repair.adapter.mending import RoomMending
from synapse_rejection_repair.adapter.newcomers import Newcomers
from synapse_rejection_repair.adapter.receiving import Receiving
from synapse_rejection_repair.adapter.restating import Restating
from synapse_rejection_repair.domain.model import Verdict
from synapse_rejection_repair.domain.plan import Plan
from synapse_rejection_repair.domain.repair import RepairJob
from synapse_rejection_repair.domain.steps import Action, Step
from synapse_rejection_repair.ports import Checker, Clock, RoomWriter


class SynapseWriter(RoomWriter):
    """Changes rooms through Synapse's own persistence.

    Args:
        hs: a homeserver process that writes events.
        database: its main database.
        receiving: stores events anew.
        restating: gives events new states.
        newcomers: brings what others send meanwhile in line.
        hooks: into Synapse's persistence.
        mending: brings rooms in line in the end.
        failures: events that could not be stored.
        clock: tells the time.
    """

    def __init__(
        self,
        hs: HomeServer,
        database: Database,
        receiving: Receiving,
        restating: Restating,
        newcomers: Newcomers,
        hooks: PersistenceHooks,
        mending: RoomMending,
        failures: Failures,
        clock: Clock,
    ) -> None:
        self._stores = hs.get_datastores()
        self._database = database
        self._receiving = receiving
        self._restating = restating
        self._newcomers = newcomers
        self._hooks = hooks
        self._mending = mending
        self._failures = failures
        self._clock = clock

    @override
    async def prepare(self, plan: Plan) -> None:
        await self._receiving.prepare(plan)

    @override
    async def apply(
        self, job: RepairJob, steps: Sequence[Step], checker: Checker
    ) -> list[tuple[Step, Verdict]]:
        assert isinstance(checker, EventChecker)
        action = steps[0].action
        # What passed the check of hashes and signatures as it was planned passes it again.
        await checker.load([step.node for step in steps], verify=action is Action.REJECT)
        if action is Action.RESTATE:
            await self._restating.restate(job, steps, checker)
        elif action is Action.INDEX:
            await self._index(job, steps, checker)
        else:
            return await self._receiving.receive(job, steps, checker)
        return [(step, step.verdict) for step in steps]

    async def _index(self, job: RepairJob, steps: Sequence[Step], checker: EventChecker) -> None:
        persist = self._stores.persist_events
        assert persist is not None
        store_row = {
            EventTypes.Message: persist._store_room_message_txn,
            EventTypes.Topic: persist._store_room_topic_txn,
            EventTypes.Name: persist._store_room_name_txn,
        }
        now = self._clock.now_ms()

        def index(txn: LoggingTransaction) -> None:
            originals: list[tuple[str, object]] = [(s.node.event_id, {}) for s in steps]
            journal(txn, job.job_id, Action.INDEX.value, now, originals)
            for step in steps:
                event = checker.event(step.node.event_id)
                event.internal_metadata.stream_ordering = step.node.stream_ordering
                store_row[event.type](txn, event)

        await self._database.run("index", index)

    @override
    async def forget(self, room_id: str) -> None:
        await self._mending.forget(room_id)

    @override
    async def finish(self, plan: Plan) -> None:
        async def carried_out() -> Plan:
            return plan

        await self.finish_after(plan.room_id, carried_out)

    @override
    async def finish_after(self, room_id: str, work: Callable[[], Awaitable[Plan]]) -> None:
        async def extremities() -> Collection[str]:
            return (await work()).extremities

        await self._mending.mend(room_id, extremities)

    @override
    def not_stored(self, room_id: str) -> list[str]:
        return self._failures.of(room_id)

    @override
    def attending(self, room_id: str) -> AbstractContextManager[None]:
        self._failures.forget(room_id)
        return self._hooks.attending(room_id, self._newcomers.renew)
