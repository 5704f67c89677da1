"""`POST /rooms/{room_id}/repair`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from itertools import islice

from synapse.http.servlet import RestServlet
from synapse.http.site import SynapseRequest

from synapse_rejection_repair.domain.delivery import Deliver
from synapse_rejection_repair.domain.job import Status
from synapse_rejection_repair.domain.model import JsonDict
from synapse_rejection_repair.domain.plan import Plan
from synapse_rejection_repair.domain.repair import RepairProgress, RepairRequest
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.errors import InvalidParam
from synapse_rejection_repair.errors_undo import NotStoppable
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.repair import RepairService
from synapse_rejection_repair.rest import params, serialise
from synapse_rejection_repair.rest.jobs import JobCancelServlet
from synapse_rejection_repair.rest.paths import pattern

_BODY = (
    "dry_run",
    "event_ids",
    "since_ts",
    "until_ts",
    "force",
    "deliver",
    "plan",
    "state_from",
)
_MAX_CITING_SHOWN = 10
_MAX_IDS = 1000

# The spec's grammar ("Identifier Grammar", Server Name).
_SERVER_NAME = re.compile(r"([0-9A-Za-z.-]{1,230}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


class RepairCancelServlet(JobCancelServlet[RepairRequest, RepairProgress]):
    """`POST /repairs/{id}/cancel`: stops a repair, but not what undoes one."""

    async def on_POST(self, request: SynapseRequest, job_id: str) -> tuple[int, JsonDict]:
        """Answers with the job's progress."""
        job = await self._store.get(params.job_id(job_id))
        if job.request.undoes is not None and job.status is Status.ACTIVE:
            raise NotStoppable(job.job_id)
        return await super().on_POST(request, job_id)


class RepairServlet(RestServlet):
    """`POST /rooms/{room_id}/repair`: a dry run unless told otherwise."""

    def __init__(self, base: str, service: RepairService, clock: Clock) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/rooms/(?P<room_id>[^/]+)/repair")
        self._service = service
        self._clock = clock

    async def on_POST(self, request: SynapseRequest, room_id: str) -> tuple[int, JsonDict]:
        """Answers with the plan, or with the id of the job that carries it out."""
        room_id = params.room_id(room_id)
        params.query(request, ())
        body = params.body(request, _BODY)
        wanted = _repair_request(body)
        if params.boolean(body, "dry_run", True):
            plan = await self._service.dry_run(room_id, wanted)
            return HTTPStatus.OK, await self._clock.in_thread(_plan, plan, wanted.state_from)
        job = await self._service.start(room_id, wanted)
        return HTTPStatus.OK, {"repair_id": job.job_id}


def _plan(plan: Plan, state_from: str | None) -> JsonDict:
    return {
        "dry_run": True,
        "fingerprint": plan.fingerprint,
        "summary": {
            "accept": plan.accepted,
            "reject": plan.rejected,
            "let_through": plan.let_through,
            "gaps": len(plan.gaps),
            "restate": plan.restated,
            "state_changes": [serialise.state_change(c) for c in plan.state_changes],
        },
        "events": [
            {
                "event_id": step.node.event_id,
                **serialise.verdict(step.verdict),
                "soft_failed": step.verdict.soft_failed,
                "was_soft_failed": step.node.soft_failed,
            }
            for step in islice(plan.verdicts, serialise.MOST_SHOWN)
        ],
        "events_total": plan.accepted + plan.rejected,
        "states": [serialise.borrowed(one, state_from) for one in plan.borrowed if state_from],
        "gaps": [
            {"event_id": gap.event_id, "cited_by": list(gap.cited_by[:_MAX_CITING_SHOWN])}
            for gap in plan.gaps[: serialise.MOST_SHOWN]
        ],
    }


def _repair_request(body: Mapping[str, object]) -> RepairRequest:
    since_ts = params.whole(body, "since_ts", 0, params.MAX_TS)
    until_ts = params.whole(body, "until_ts", 0, params.MAX_TS)
    params.require_in_order(since_ts, until_ts)
    event_ids = _event_ids(body, "event_ids")
    if "event_ids" in body and not event_ids:
        raise InvalidParam("event_ids", "must name at least one event; leave it out for all")
    return RepairRequest(
        scope=Scope(event_ids, since_ts, until_ts, _event_ids(body, "force")),
        deliver=_deliver(body),
        fingerprint=_fingerprint(body),
        state_from=_server(body, "state_from"),
    )


def _event_ids(body: Mapping[str, object], name: str) -> frozenset[str]:
    value = body.get(name, [])
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise InvalidParam(name, "must be a list of event ids")
    if len(value) > _MAX_IDS:
        raise InvalidParam(name, f"must name at most {_MAX_IDS} events")
    return frozenset(params.event_id(name, v) for v in value)


def _deliver(body: Mapping[str, object]) -> Deliver:
    value = body.get("deliver", Deliver.LIVE.value)
    if value not in [d.value for d in Deliver]:
        raise InvalidParam("deliver", f"must be one of: {', '.join(d.value for d in Deliver)}")
    return Deliver(value)


def _fingerprint(body: Mapping[str, object]) -> str | None:
    if "plan" not in body:
        return None
    value = body["plan"]
    if not isinstance(value, str) or not value:
        raise InvalidParam("plan", "must be the fingerprint that a dry run answered with")
    return value


def _server(body: Mapping[str, object], name: str) -> str | None:
    if name not in body:
        return None
    value = body[name]
    if not isinstance(value, str) or not _SERVER_NAME.fullmatch(value):
        raise InvalidParam(name, "must be the name of a server")
    return value
