"""The wiring: every part, given those that it asks for.

Imported only once `adapter.audit` has found nothing: what is imported from here on may not
even be there in a Synapse that differs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from synapse.module_api import ModuleApi
from synapse.server import HomeServer

from synapse_rejection_repair.adapter.arrivals import ArrivalHooks
from synapse_rejection_repair.adapter.backfill import Backfill
from synapse_rejection_repair.adapter.checker import EventChecker
from synapse_rejection_repair.adapter.clock import ReactorClock
from synapse_rejection_repair.adapter.contexts import EventContexts
from synapse_rejection_repair.adapter.dag import SynapseDag
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.defects import DefectScan
from synapse_rejection_repair.adapter.derived import follow_undoing
from synapse_rejection_repair.adapter.facts import SynapseFacts
from synapse_rejection_repair.adapter.failures import Failures
from synapse_rejection_repair.adapter.gaps import GapReader
from synapse_rejection_repair.adapter.hooks import PersistenceHooks
from synapse_rejection_repair.adapter.integrity import IntegrityCheck
from synapse_rejection_repair.adapter.jobstore import SynapseJobStore, prepare_tables
from synapse_rejection_repair.adapter.latecomers import Latecomers
from synapse_rejection_repair.adapter.listings import Listings
from synapse_rejection_repair.adapter.mending import RoomMending
from synapse_rejection_repair.adapter.metrics import RepairMeter
from synapse_rejection_repair.adapter.newcomers import Newcomers
from synapse_rejection_repair.adapter.peer_events import PeerEvents
from synapse_rejection_repair.adapter.peer_states import SynapsePeerStates
from synapse_rejection_repair.adapter.peers import SynapsePeers
from synapse_rejection_repair.adapter.process import is_main, writes_events, writes_room
from synapse_rejection_repair.adapter.receiving import Receiving
from synapse_rejection_repair.adapter.rejected import RejectedEvents
from synapse_rejection_repair.adapter.resolved import ResolvedStates
from synapse_rejection_repair.adapter.restating import Restating
from synapse_rejection_repair.adapter.rooms import SynapseRooms
from synapse_rejection_repair.adapter.soft_failures import SoftFailureReader
from synapse_rejection_repair.adapter.states import SynapseStates
from synapse_rejection_repair.adapter.undo_reader import SynapseUndoReader
from synapse_rejection_repair.adapter.undoing import SynapseUndoWriter
from synapse_rejection_repair.adapter.watchstore import SynapseWatchStore
from synapse_rejection_repair.adapter.writer import SynapseWriter
from synapse_rejection_repair.background import Background
from synapse_rejection_repair.carrying_out import PlanExecutor
from synapse_rejection_repair.config import Config
from synapse_rejection_repair.diagnosis import Diagnostician
from synapse_rejection_repair.domain.repair import RepairProgress, RepairRequest
from synapse_rejection_repair.healing import Healer
from synapse_rejection_repair.jobs import RepairRunner
from synapse_rejection_repair.peers import PeerSurvey
from synapse_rejection_repair.planner import Planner
from synapse_rejection_repair.repair import RepairService
from synapse_rejection_repair.rest import serialise
from synapse_rejection_repair.rest.jobs import JobsServlet, JobStatusServlet
from synapse_rejection_repair.rest.peers import PeersServlet
from synapse_rejection_repair.rest.repairs import RepairCancelServlet, RepairServlet
from synapse_rejection_repair.rest.resource import AdminResource
from synapse_rejection_repair.rest.rooms import (
    DiagnosisServlet,
    HealthServlet,
    RejectionsServlet,
    RoomsServlet,
)
from synapse_rejection_repair.rest.undo import UndoServlet
from synapse_rejection_repair.starting import until_it_succeeds
from synapse_rejection_repair.undo import Undoing, UndoPlanner, UndoService
from synapse_rejection_repair.wiring_imports import wire_imports
from synapse_rejection_repair.wiring_watch import wire_watch

_POLL_MS = 5000
"""How often a process looks for jobs that were asked of others, in milliseconds."""


_AT_ONCE_SHARED, _REST_SHARED = 50, 0.35
_AT_ONCE, _REST = 200, 0.0
"""How many events a repair stores at a time, and how long it rests after that, in times that it
took.

Fewer, and with a rest, where all of the server waits for one database connection; Synapse stores
a hundred in one transaction. Chosen with `bench.repair`: other rooms are to wait no more than
twice as long as when idle.
"""


def wire(api: ModuleApi, hs: HomeServer, resource: AdminResource, config: Config) -> None:
    """Puts the endpoints below a resource and starts what runs in the background.

    Args:
        api: Synapse's door for modules.
        hs: the homeserver behind it.
        resource: where the endpoints are to be.
        config: the module's configuration.
    """
    base = config.path
    clock = ReactorClock(hs)
    database = Database(hs)
    states = SynapseStates(hs, database)
    soft_failures = SoftFailureReader(database, clock)
    rejected = RejectedEvents(hs, database, clock)
    listings = Listings(database, rejected, clock)
    scan = DefectScan(database, states, clock, hs.config.server.enable_search)
    gaps = GapReader(database, hs.hostname, clock)
    rooms = SynapseRooms(database)
    dag = SynapseDag(database, soft_failures)
    facts = SynapseFacts(database, rooms, dag, scan, soft_failures, gaps)
    integrity = IntegrityCheck(hs)
    failures = Failures()

    def make_checker(room_version: str) -> EventChecker:
        return EventChecker(hs, database, integrity, clock, failures, room_version)

    def this_process_writes(room_id: str) -> bool:
        return writes_room(hs, room_id)

    def spawn(func: Callable[[], Awaitable[None]]) -> object:
        return api.run_as_background_process("rejection_repair", func, bg_start_span=False)

    planner = Planner(dag, states, make_checker, clock)
    store = SynapseJobStore(
        database, "repair", RepairRequest, RepairProgress, this_process_writes, clock
    )
    history = SynapseUndoReader(database, dag)
    undo_planner = UndoPlanner(store, rooms, history)
    peers = SynapsePeers(hs, database, dag, states, clock)
    peer_events = PeerEvents(hs, database, integrity, make_checker, clock)
    peer_states = SynapsePeerStates(hs, database, peers, peer_events)
    resolved = ResolvedStates(hs)
    follow_undoing(hs, database)
    runner = hooks = arrivals = None
    if writes_events(hs):
        hooks = PersistenceHooks(hs)
        shared = database.shared_connection
        at_once, rest = (_AT_ONCE_SHARED, _REST_SHARED) if shared else (_AT_ONCE, _REST)
        arrivals = ArrivalHooks(hs)
        mending = RoomMending(hs, database, rooms, dag, states, hooks, resolved)
        contexts = EventContexts(hs, dag, states)
        receiving = Receiving(hs, database, contexts, resolved, hooks, arrivals, failures, clock)
        restating = Restating(hs, database, dag, contexts, clock)
        newcomers = Newcomers(hs, contexts)
        writer = SynapseWriter(
            hs, database, receiving, restating, newcomers, hooks, mending, failures, clock
        )
        latecomers = Latecomers(hs, database, contexts, states)
        undo_writer = SynapseUndoWriter(
            hs, database, history, mending, hooks, latecomers, resolved, clock
        )
        undoing = Undoing(store, undo_planner, undo_writer, clock)

        def servers_to_ask(room_id: str, sender: str) -> Awaitable[list[str]]:
            return peers.servers(room_id, sender, config.max_peers)

        backfill = Backfill(hs, database, gaps, servers_to_ask, clock)
        runner = RepairRunner(
            store,
            rooms,
            facts,
            planner,
            writer,
            PlanExecutor(store, rooms, writer, make_checker, clock, at_once, rest),
            undoing,
            peer_states,
            backfill,
            clock,
        )
    background = Background(
        store,
        runner,
        this_process_writes,
        spawn,
        RepairMeter(hs.hostname),
        clock,
        database.trouble,
    )
    service = RepairService(rooms, facts, planner, store, peer_states, clock, background.started)
    undo_service = UndoService(store, undo_planner, background.started)
    noticed = SynapseWatchStore(database)
    survey = PeerSurvey(peers, clock, config.max_peers)
    diagnostician = Diagnostician(rooms, facts, planner, noticed, survey, clock)

    for servlet in (
        RoomsServlet(base, listings),
        RejectionsServlet(base, rooms, listings),
        DiagnosisServlet(base, diagnostician, clock),
        PeersServlet(base, survey),
        HealthServlet(base, diagnostician),
        RepairServlet(base, service, clock),
        JobsServlet(base, "repairs", store, serialise.repair),
        JobStatusServlet(base, "repairs", store, serialise.repair),
        RepairCancelServlet(base, "repairs", store, serialise.repair, background.cancel),
        UndoServlet(base, undo_service),
    ):
        servlet.register(resource)
    imports = wire_imports(
        hs,
        resource,
        base,
        config.sources,
        database,
        rooms,
        dag,
        states,
        make_checker,
        clock,
        hooks,
        arrivals,
        this_process_writes,
        spawn,
    )

    healer = None
    if config.auto_repair is not None:
        most = config.auto_repair.max_events
        healer = Healer(rooms, facts, planner, survey, service, store, noticed, clock, most)
    begin_watch = wire_watch(
        api, hs, resource, config, noticed, listings, diagnostician, clock, healer
    )

    async def poll() -> None:
        await background.poll()
        await imports.poll()

    async def begin() -> None:
        await until_it_succeeds(
            "The tables", lambda: prepare_tables(database), clock, database.trouble
        )
        resource.ready()
        api.looping_background_call(
            poll, _POLL_MS, desc="rejection_repair_poll", run_on_all_instances=True
        )
        # By itself: where it fails, the loop looks again, and all else begins.
        spawn(poll)
        await until_it_succeeds("The watch", begin_watch, clock, database.trouble)
        if is_main(hs):
            await rejected.warm()

    hs.get_clock().call_when_running(lambda: spawn(begin))
