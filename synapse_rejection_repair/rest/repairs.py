"""`POST /rooms/{room_id}/repair`, and `/repairs` to follow what it began."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from synapse.http.servlet import RestServlet
from synapse.http.site import SynapseRequest

from synapse_rejection_repair.domain.job import Status
from synapse_rejection_repair.domain.model import JsonDict
from synapse_rejection_repair.domain.plan import Action, Deliver, Plan
from synapse_rejection_repair.domain.repair import RepairProgress, RepairRequest
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.errors import InvalidParam
from synapse_rejection_repair.ports import JobStore
from synapse_rejection_repair.repair import RepairService
from synapse_rejection_repair.rest import params, serialise
from synapse_rejection_repair.rest.paths import pattern

_BODY = ("dry_run", "event_ids", "since_ts", "until_ts", "force", "deliver", "plan")
_MAX_EVENTS_SHOWN = 1000
_MAX_IDS = 1000
Repairs = JobStore[RepairRequest, RepairProgress]
JOB_ORDERS = ("created_ts", "room_id", "status", "started_ts", "finished_ts")


class RepairServlet(RestServlet):
    """`POST /rooms/{room_id}/repair`: a dry run unless told otherwise."""

    def __init__(self, base: str, service: RepairService) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/rooms/(?P<room_id>[^/]+)/repair")
        self._service = service

    async def on_POST(self, request: SynapseRequest, room_id: str) -> tuple[int, JsonDict]:
        """Answers with the plan, or with the id of the job that carries it out."""
        room_id = params.room_id(room_id)
        params.query(request, ())
        body = params.body(request, _BODY)
        wanted = _repair_request(body)
        if _boolean(body, "dry_run", True):
            return HTTPStatus.OK, _plan(await self._service.dry_run(room_id, wanted))
        job = await self._service.start(room_id, wanted)
        return HTTPStatus.OK, {"repair_id": job.job_id}


class RepairsServlet(RestServlet):
    """`GET /repairs`: all repairs, the newest first."""

    def __init__(self, base: str, store: Repairs) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/repairs")
        self._store = store

    async def on_GET(self, request: SynapseRequest) -> tuple[int, JsonDict]:
        """Answers with a page of the list."""
        query = params.query(request, (*params.PAGE, "room_id", "status"))
        page = params.page(query, JOB_ORDERS, newest_first=True)
        status = query.get("status")
        if status is not None and status not in [s.value for s in Status]:
            raise InvalidParam("status", f"must be one of: {', '.join(s.value for s in Status)}")
        room_id = query.get("room_id")
        jobs = await self._store.page(
            page,
            None if room_id is None else params.room_id(room_id),
            None if status is None else Status(status),
        )
        return HTTPStatus.OK, serialise.listing("repairs", jobs, page, serialise.repair)


class RepairStatusServlet(RestServlet):
    """`GET /repairs/{id}`: one repair."""

    def __init__(self, base: str, store: Repairs) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/repairs/(?P<repair_id>[^/]+)")
        self._store = store

    async def on_GET(self, request: SynapseRequest, repair_id: str) -> tuple[int, JsonDict]:
        """Answers with the repair's progress."""
        params.query(request, ())
        return HTTPStatus.OK, serialise.repair(await self._store.get(params.job_id(repair_id)))


class RepairCancelServlet(RestServlet):
    """`POST /repairs/{id}/cancel`: stops a repair between two events."""

    def __init__(self, base: str, store: Repairs) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/repairs/(?P<repair_id>[^/]+)/cancel")
        self._store = store

    async def on_POST(self, request: SynapseRequest, repair_id: str) -> tuple[int, JsonDict]:
        """Answers with the repair's progress."""
        repair_id = params.job_id(repair_id)
        params.query(request, ())
        params.body(request, ())
        return HTTPStatus.OK, serialise.repair(await self._store.cancel(repair_id))


def _plan(plan: Plan) -> JsonDict:
    verdicts = plan.verdicts
    return {
        "dry_run": True,
        "fingerprint": plan.fingerprint,
        "summary": {
            "accept": plan.accepted,
            "reject": plan.rejected,
            "restate": sum(s.action is Action.RESTATE for s in plan.steps),
            "state_changes": [serialise.state_change(c) for c in plan.state_changes],
        },
        "events": [
            {
                "event_id": step.node.event_id,
                "verdict": step.verdict.outcome.value,
                "check": step.verdict.check.value if step.verdict.check else None,
                "error": step.verdict.error,
                "soft_failed": step.verdict.soft_failed,
            }
            for step in verdicts[:_MAX_EVENTS_SHOWN]
        ],
        "events_total": len(verdicts),
    }


def _repair_request(body: Mapping[str, object]) -> RepairRequest:
    since_ts, until_ts = _timestamp(body, "since_ts"), _timestamp(body, "until_ts")
    params.require_in_order(since_ts, until_ts)
    event_ids = _event_ids(body, "event_ids")
    if "event_ids" in body and not event_ids:
        raise InvalidParam("event_ids", "must name at least one event; leave it out for all")
    return RepairRequest(
        scope=Scope(event_ids, since_ts, until_ts, _event_ids(body, "force")),
        deliver=_deliver(body),
        fingerprint=_fingerprint(body),
    )


def _boolean(body: Mapping[str, object], name: str, default: bool) -> bool:
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise InvalidParam(name, "must be true or false")
    return value


def _timestamp(body: Mapping[str, object], name: str) -> int | None:
    if name not in body:
        return None
    value = body[name]
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidParam(name, "must be a time in milliseconds, as a whole number")
    return params.within(name, value, 0, params.MAX_TS)


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
