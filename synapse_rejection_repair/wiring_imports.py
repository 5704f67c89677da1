"""The wiring of the import, as `wiring` is of the repair."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from synapse.server import HomeServer

from synapse_rejection_repair.adapter.admission import Admission
from synapse_rejection_repair.adapter.arrivals import ArrivalHooks
from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.adapter.clock import ReactorClock
from synapse_rejection_repair.adapter.dag import SynapseDag
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.hooks import PersistenceHooks
from synapse_rejection_repair.adapter.import_target import SynapseImportTarget
from synapse_rejection_repair.adapter.import_writer import SynapseImportWriter
from synapse_rejection_repair.adapter.jobstore import SynapseJobStore
from synapse_rejection_repair.adapter.media_target import SynapseMediaTarget
from synapse_rejection_repair.adapter.metrics import ImportMeter
from synapse_rejection_repair.adapter.process import requests_begun
from synapse_rejection_repair.adapter.rooms import SynapseRooms
from synapse_rejection_repair.adapter.skipped import SynapseSkippedList
from synapse_rejection_repair.background import Background
from synapse_rejection_repair.config import SourceConfig
from synapse_rejection_repair.domain.imports import ImportProgress, ImportRequest
from synapse_rejection_repair.import_jobs import ImportRunner
from synapse_rejection_repair.importing import ImportService
from synapse_rejection_repair.media_import import MediaImport
from synapse_rejection_repair.ports import StateReader
from synapse_rejection_repair.ports_imports import Source
from synapse_rejection_repair.rest import serialise
from synapse_rejection_repair.rest.imports import (
    ImportServlet,
    ImportSkippedMediaServlet,
    ImportSkippedServlet,
    ImportsServlet,
    SourceRoomsServlet,
    SourcesServlet,
)
from synapse_rejection_repair.rest.jobs import JobCancelServlet, JobStatusServlet
from synapse_rejection_repair.rest.resource import AdminResource
from synapse_rejection_repair.sources.registry import ConfiguredSources


def wire_imports(
    hs: HomeServer,
    resource: AdminResource,
    base: str,
    configs: Mapping[str, SourceConfig],
    database: Database,
    rooms: SynapseRooms,
    dag: SynapseDag,
    states: StateReader,
    make_checker: Callable[[str], EventChecker],
    clock: ReactorClock,
    hooks: PersistenceHooks | None,
    arrivals: ArrivalHooks | None,
    writes_room: Callable[[str], bool],
    spawn: Callable[[Callable[[], Awaitable[None]]], object],
) -> Background[ImportRequest, ImportProgress]:
    """Puts the endpoints of the import below a resource; gives what runs its jobs.

    Args:
        hs: the homeserver.
        resource: where the endpoints are to be.
        base: the path that it is mounted at.
        configs: the old databases, by name.
        database: Synapse's main database.
        rooms: knows rooms.
        dag: knows events.
        states: resolves states.
        make_checker: gives a fresh checker for a room of a version.
        clock: the reactor's.
        hooks: into Synapse's persistence, on a process that writes events.
        arrivals: likewise.
        writes_room: whether this process writes the events of a room.
        spawn: runs a function as a background process of Synapse's.
    """
    sources = ConfiguredSources(configs, clock)
    admission = Admission(hs, clock)

    target = SynapseImportTarget(database, rooms, admission, make_checker, states, clock)
    store = SynapseJobStore(database, "import", ImportRequest, ImportProgress, writes_room, clock)
    media = MediaImport(SynapseMediaTarget(hs, database, store, clock), clock)
    runner = None
    if hooks is not None and arrivals is not None:
        repairing, arriving = hooks, arrivals

        def make_writer(
            room_id: str, room_version: str, source: Source, request: ImportRequest
        ) -> SynapseImportWriter:
            return SynapseImportWriter(
                hs,
                database,
                rooms,
                dag,
                admission,
                make_checker,
                repairing,
                arriving,
                store,
                clock,
                room_id,
                room_version,
                source,
                request,
            )

        def others_asked() -> int:
            # Who follows an import is not to slow it down.
            return requests_begun() - resource.requests

        runner = ImportRunner(store, sources, target, media, make_writer, clock, others_asked)
    background = Background(
        store,
        runner,
        writes_room,
        spawn,
        ImportMeter(hs.hostname),
        clock,
        database.trouble,
        at_once=1,
    )
    service = ImportService(sources, target, media, store, background.started, hs.hostname)

    skipped = SynapseSkippedList(database)
    for servlet in (
        SourcesServlet(base, service),
        SourceRoomsServlet(base, service),
        ImportServlet(base, service),
        ImportsServlet(base, service, store),
        JobStatusServlet(base, "imports", store, serialise.import_),
        ImportSkippedServlet(base, store, skipped),
        ImportSkippedMediaServlet(base, store, skipped),
        JobCancelServlet(base, "imports", store, serialise.import_, background.cancel),
    ):
        servlet.register(resource)
    return background
