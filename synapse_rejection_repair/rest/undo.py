"""`POST /repairs/{repair_id}/undo`."""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus

from synapse.http.servlet import RestServlet
from synapse.http.site import SynapseRequest

from synapse_rejection_repair.domain.model import JsonDict
from synapse_rejection_repair.domain.steps import Action
from synapse_rejection_repair.domain.undo import UndoPlan
from synapse_rejection_repair.rest import params, serialise
from synapse_rejection_repair.rest.paths import pattern
from synapse_rejection_repair.undo import UndoService


class UndoServlet(RestServlet):
    """`POST /repairs/{repair_id}/undo`: a dry run unless told otherwise."""

    def __init__(self, base: str, service: UndoService) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/repairs/(?P<repair_id>[^/]+)/undo")
        self._service = service

    async def on_POST(self, request: SynapseRequest, repair_id: str) -> tuple[int, JsonDict]:
        """Answers with what would be put back, or with the id of the job that does it."""
        repair_id = params.job_id(repair_id)
        params.query(request, ())
        body = params.body(request, ("dry_run",))
        if params.boolean(body, "dry_run", True):
            return HTTPStatus.OK, _plan(await self._service.dry_run(repair_id))
        job = await self._service.start(repair_id)
        return HTTPStatus.OK, {"repair_id": job.job_id}


def _plan(plan: UndoPlan) -> JsonDict:
    counts = Counter(action for actions in plan.events.values() for action in actions)
    return {
        "dry_run": True,
        "undoes": plan.repair_id,
        "room_id": plan.room_id,
        "summary": {
            **{action.value: counts[action] for action in Action},
            "state_changes": [serialise.state_change(c) for c in plan.state_changes],
        },
        "events": [
            {"event_id": event_id, "actions": [action.value for action in actions]}
            for event_id, actions in list(plan.events.items())[: serialise.MOST_SHOWN]
        ],
        "events_total": len(plan.events),
    }
