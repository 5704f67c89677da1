"""Repairing without an admin, where `domain.healing` leaves nothing to decide."""

from __future__ import annotations

import attr

from synapse_rejection_repair.domain.delivery import Deliver
from synapse_rejection_repair.domain.healing import Healed, not_confirmed, too_many, why_not
from synapse_rejection_repair.domain.listing import Page
from synapse_rejection_repair.domain.repair import (
    RepairJob,
    RepairProgress,
    RepairRequest,
)
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.domain.watch import Alert
from synapse_rejection_repair.errors import FactsChanged, JobRunning, RepairError
from synapse_rejection_repair.peers import PeerSurvey
from synapse_rejection_repair.planner import Planner
from synapse_rejection_repair.ports import Clock, FactsReader, RoomReader
from synapse_rejection_repair.ports_jobs import JobStore
from synapse_rejection_repair.ports_watch import WatchStore
from synapse_rejection_repair.repair import RepairService

_PATIENCE_MS = 40_000
"""How long an alert waits to be told of until its repair is over, in milliseconds."""

_ATTEMPTS = 5
"""How often a plan is made, in a room that changes before it is begun."""

_NEWEST = Page(start=0, limit=100, order_by="created_ts", backwards=True)


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Healer:
    """Repairs the roots that alerts are about. One process of a server does.

    Attributes:
        rooms: knows rooms.
        facts: reads what plans are made from.
        planner: makes plans.
        survey: asks other servers.
        service: begins repairs.
        jobs: the repairs.
        alerts: keeps which of them belongs to an alert.
        clock: tells the time.
        most: how many events a repair may touch.
    """

    rooms: RoomReader
    facts: FactsReader
    planner: Planner
    survey: PeerSurvey
    service: RepairService
    jobs: JobStore[RepairRequest, RepairProgress]
    alerts: WatchStore
    clock: Clock
    most: int

    async def heal(self, alert: Alert) -> Healed | None:
        """What becomes of a root; `None` as long as that is not known.

        Begins its repair, the first time. A process that is killed at that leaves a job,
        by which the next one knows.

        Args:
            alert: the alert about it.
        """
        job = await self._begun(alert)
        patient = self.clock.now_ms() < alert.alerted_ts + _PATIENCE_MS
        if job is None:
            try:
                found = await self._begin(alert)
            except JobRunning as e:
                return None if patient else Healed(waits=str(e))
            except RepairError as e:
                found = str(e)
            if isinstance(found, str):
                return Healed(waits=found)
            job = found
        if alert.repair_id != job.job_id:
            await self.alerts.repaired_by(alert.event_id, job.job_id)
        if patient and not job.status.over:
            return None
        return Healed(job.job_id, job.status.value)

    async def _begun(self, alert: Alert) -> RepairJob | None:
        root = frozenset({alert.event_id})
        for job in (await self.jobs.page(_NEWEST, alert.room_id, None)).rows:
            if job.request.automatic and job.request.scope.event_ids == root:
                return job
        return None

    async def _begin(self, alert: Alert) -> RepairJob | str:
        """The job that was begun, or why it was not."""
        room_id, root = alert.room_id, alert.event_id
        await self.rooms.require_repairable(room_id)
        asked = False
        scope = Scope(event_ids=frozenset({root}))
        for _ in range(_ATTEMPTS):
            facts = await self.facts.read(room_id)
            chosen = await self.clock.in_thread(scope.select, facts.suspects)
            if len(chosen) > self.most:
                return too_many(len(chosen), self.most)
            plan = await self.planner.plan(facts, scope, Deliver.LIVE, chosen)
            reason = why_not(facts, root, plan, self.most)
            if reason is None and not asked:
                asked = True
                reason = not_confirmed((await self.survey.of_event(root, self.survey.most))[1])
            if reason is not None:
                return reason
            request = RepairRequest(scope, Deliver.LIVE, plan.fingerprint, automatic=True)
            try:
                return await self.service.start(room_id, request)
            except FactsChanged:
                continue
        return "The room changes faster than a plan for it is made"
