"""`/sources`, and importing old history out of them."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import attr
from synapse.http.servlet import RestServlet
from synapse.http.site import SynapseRequest

from synapse_rejection_repair.domain.imports import MAX_RATE, ImportProgress, ImportRequest, Skipped
from synapse_rejection_repair.domain.listing import Listing
from synapse_rejection_repair.domain.media import SkippedMedium
from synapse_rejection_repair.domain.model import JsonDict
from synapse_rejection_repair.errors import InvalidParam
from synapse_rejection_repair.importing import Imports, ImportService, RoomImport
from synapse_rejection_repair.ports_imports import SkippedList
from synapse_rejection_repair.rest import params, serialise
from synapse_rejection_repair.rest.errors import to_http
from synapse_rejection_repair.rest.jobs import JobsServlet
from synapse_rejection_repair.rest.paths import pattern

_OPTIONS = (
    "source",
    "dry_run",
    "verify_signatures",
    "events_per_second",
    "media",
    "judge_rejected",
)
_MAX_ROOMS = 1000
SOURCE_ROOM_ORDERS = ("room_id", "events", "missing", "joined")
SKIPPED_ORDERS = ("ts", "event_id")
SOURCE_ORDERS = ("name",)
SKIPPED_MEDIA_ORDERS = ("ts", "mxc")


class SourcesServlet(RestServlet):
    """`GET /sources`: the old databases that the configuration names."""

    def __init__(self, base: str, service: ImportService) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/sources")
        self._service = service

    async def on_GET(self, request: SynapseRequest) -> tuple[int, JsonDict]:
        """Answers with a page of their names, and nothing else of them."""
        page = params.page(params.query(request, params.PAGE), SOURCE_ORDERS)
        names = sorted(self._service.sources.names(), reverse=page.backwards)
        found = Listing(names[page.start : page.start + page.limit], len(names))
        return HTTPStatus.OK, serialise.listing("sources", found, page, _source)


class SourceRoomsServlet(RestServlet):
    """`GET /sources/{name}/rooms`: the rooms of an old database against ours."""

    def __init__(self, base: str, service: ImportService) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/sources/(?P<name>[^/]+)/rooms")
        self._service = service

    async def on_GET(self, request: SynapseRequest, name: str) -> tuple[int, JsonDict]:
        """Answers with a page of the list."""
        page = params.page(params.query(request, params.PAGE), SOURCE_ROOM_ORDERS)
        rooms = await self._service.rooms(name, page)
        return HTTPStatus.OK, serialise.listing("rooms", rooms, page, attr.asdict)


class ImportServlet(RestServlet):
    """`POST /rooms/{room_id}/import`: a dry run unless told otherwise."""

    def __init__(self, base: str, service: ImportService) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/rooms/(?P<room_id>[^/]+)/import")
        self._service = service

    async def on_POST(self, request: SynapseRequest, room_id: str) -> tuple[int, JsonDict]:
        """Answers with what the import would bring, or with the id of the job that does it."""
        room_id = params.room_id(room_id)
        params.query(request, ())
        body = params.body(request, _OPTIONS)
        wanted = _import_request(body)
        if params.boolean(body, "dry_run", True):
            summary = await self._service.dry_run(room_id, wanted)
            return HTTPStatus.OK, {"dry_run": True, "summary": attr.asdict(summary)}
        job = await self._service.start(room_id, wanted)
        return HTTPStatus.OK, {"import_id": job.job_id}


class ImportsServlet(JobsServlet[ImportRequest, ImportProgress]):
    """`/imports`: `GET` all imports, the newest first; `POST` imports of many rooms."""

    def __init__(self, base: str, service: ImportService, store: Imports) -> None:
        super().__init__(base, "imports", store, serialise.import_)
        self._service = service

    async def on_POST(self, request: SynapseRequest) -> tuple[int, JsonDict]:
        """Answers with what came of each room: a summary, the id of a job, or an error."""
        params.query(request, ())
        body = params.body(request, (*_OPTIONS, "room_ids"))
        wanted = _import_request(body)
        dry_run = params.boolean(body, "dry_run", True)
        found = await self._service.many(_room_ids(body), wanted, dry_run=dry_run)
        return HTTPStatus.OK, {"dry_run": dry_run, "rooms": [_room(r) for r in found]}


class ImportSkippedServlet(RestServlet):
    """`GET /imports/{id}/skipped`: the events that an import has left out."""

    def __init__(self, base: str, store: Imports, skipped: SkippedList) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/imports/(?P<import_id>[^/]+)/skipped")
        self._store = store
        self._skipped = skipped

    async def on_GET(self, request: SynapseRequest, import_id: str) -> tuple[int, JsonDict]:
        """Answers with a page of the list."""
        page = params.page(params.query(request, params.PAGE), SKIPPED_ORDERS)
        job = await self._store.get(params.job_id(import_id))
        found = await self._skipped.page(job.job_id, page)
        return HTTPStatus.OK, serialise.listing("skipped", found, page, _skipped)


class ImportSkippedMediaServlet(RestServlet):
    """`GET /imports/{id}/skipped_media`: the media that an import has left out."""

    def __init__(self, base: str, store: Imports, skipped: SkippedList) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, "/imports/(?P<import_id>[^/]+)/skipped_media")
        self._store = store
        self._skipped = skipped

    async def on_GET(self, request: SynapseRequest, import_id: str) -> tuple[int, JsonDict]:
        """Answers with a page of the list."""
        page = params.page(params.query(request, params.PAGE), SKIPPED_MEDIA_ORDERS)
        job = await self._store.get(params.job_id(import_id))
        found = await self._skipped.media(job.job_id, page)
        return HTTPStatus.OK, serialise.listing("skipped_media", found, page, _skipped_medium)


def _source(name: str) -> JsonDict:
    return {"name": name}


def _skipped(skipped: Skipped) -> JsonDict:
    return {
        "event_id": skipped.event_id,
        "reason": skipped.reason.value,
        "error": skipped.error,
    }


def _skipped_medium(skipped: SkippedMedium) -> JsonDict:
    return {"mxc": str(skipped.mxc), "reason": skipped.reason.value}


def _room(found: RoomImport) -> JsonDict:
    answer: JsonDict = {"room_id": found.room_id}
    if found.summary is not None:
        answer["summary"] = attr.asdict(found.summary)
    if found.job is not None:
        answer["import_id"] = found.job.job_id
    if found.error is not None:
        error = to_http(found.error)
        answer.update(errcode=error.errcode, error=error.msg)
    return answer


def _import_request(body: Mapping[str, object]) -> ImportRequest:
    source = body.get("source")
    if not isinstance(source, str) or not source:
        raise InvalidParam("source", "must be the name of a source in the module's configuration")
    return ImportRequest(
        source=source,
        verify_signatures=params.boolean(body, "verify_signatures", False),
        events_per_second=params.whole(body, "events_per_second", 1, MAX_RATE),
        media=params.boolean(body, "media", False),
        judge_rejected=params.boolean(body, "judge_rejected", False),
    )


def _room_ids(body: Mapping[str, object]) -> list[str] | None:
    value = body.get("room_ids")
    if value == "all":
        return None
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise InvalidParam("room_ids", "must be a list of room ids, or 'all'")
    if len(value) > _MAX_ROOMS:
        raise InvalidParam("room_ids", f"must name at most {_MAX_ROOMS} rooms")
    return list(dict.fromkeys(params.room_id(v) for v in value))
