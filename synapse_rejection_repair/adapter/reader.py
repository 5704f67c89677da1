"""What the database says of a room: the `RoomReader` of the inner rooms."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.storage._base import db_to_json

from synapse_rejection_repair.adapter.borrowed import borrowed_in
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.defects import DAMAGE, DefectScan
from synapse_rejection_repair.adapter.gaps import GapReader
from synapse_rejection_repair.adapter.listings import Listings
from synapse_rejection_repair.adapter.nodes import read_nodes
from synapse_rejection_repair.adapter.soft_failures import SoftFailed, SoftFailureReader
from synapse_rejection_repair.adapter.tables import JOBS, JOURNAL
from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.gaps import Missing
from synapse_rejection_repair.domain.health import Finding
from synapse_rejection_repair.domain.listing import (
    Listing,
    Page,
    RejectionFilter,
    RejectionRow,
    RoomRow,
)
from synapse_rejection_repair.domain.model import Node, StateIds
from synapse_rejection_repair.domain.nodes import NodeTable, Union
from synapse_rejection_repair.domain.steps import Action
from synapse_rejection_repair.domain.tips import Spell
from synapse_rejection_repair.errors import (
    NotInRoom,
    PartialState,
    UnknownRoom,
    UnsupportedRoomVersion,
)


class SynapseReader:
    """Reads rooms from Synapse's database, on any of its processes.

    Args:
        database: Synapse's.
        scan: finds what accepted events lack.
        soft: reads soft-failed events.
        listings: what an admin pages through.
        gaps: finds what is missing.
    """

    def __init__(
        self,
        database: Database,
        scan: DefectScan,
        soft: SoftFailureReader,
        listings: Listings,
        gaps: GapReader,
    ) -> None:
        self._database = database
        self._scan = scan
        self._soft = soft
        self._listings = listings
        self._gaps = gaps

    async def rooms(self, page: Page) -> Listing[RoomRow]:
        """The rooms with rejected events."""
        return await self._listings.rooms(page)

    async def rejections(
        self, room_id: str, wanted: RejectionFilter, page: Page
    ) -> Listing[RejectionRow]:
        """A room's rejected events."""
        return await self._listings.rejections(room_id, wanted, page)

    async def require_room(self, room_id: str) -> str:
        """The identifier of the room's version.

        Raises:
            UnknownRoom: this server has never heard of the room.
            UnsupportedRoomVersion: this server does not know its version.
        """
        rows = await self._database.rows(
            "room_version", "SELECT room_version FROM rooms WHERE room_id = ?", (room_id,)
        )
        if not rows:
            raise UnknownRoom(room_id)
        version = rows[0][0]
        if version is None:
            raise UnsupportedRoomVersion(room_id, "unknown")
        return str(version)

    async def require_repairable(self, room_id: str) -> None:
        """Checks that a repair can work on the room.

        Raises:
            UnknownRoom: this server has never heard of the room.
            UnsupportedRoomVersion: the room's version is not known, or keeps its state in
                a DAG of its own (MSC4242).
            PartialState: the room's state is still being fetched.
            NotInRoom: no local user is joined.
        """
        await self._require_known_version(room_id)
        partial = await self._database.rows(
            "partial_state", "SELECT 1 FROM partial_state_rooms WHERE room_id = ?", (room_id,)
        )
        if partial:
            raise PartialState(room_id)
        joined = await self._database.rows(
            "is_joined",
            "SELECT 1 FROM local_current_membership"
            " WHERE room_id = ? AND membership = 'join' LIMIT 1",
            (room_id,),
        )
        if not joined or not await self.current_state(room_id):
            raise NotInRoom(room_id)

    async def _require_known_version(self, room_id: str) -> str:
        version = await self.require_room(room_id)
        known = KNOWN_ROOM_VERSIONS.get(version)
        if known is None or getattr(known, "msc4242_state_dags", False):
            raise UnsupportedRoomVersion(room_id, version)
        return version

    async def _rejected_ids(self, room_id: str) -> list[str]:
        rows = await self._database.rows(
            "rejected_ids",
            "SELECT e.event_id FROM rejections AS r INNER JOIN events AS e USING (event_id)"
            " WHERE e.room_id = ?",
            (room_id,),
        )
        return [event_id for (event_id,) in rows]

    async def unknown_events(self, room_id: str, event_ids: Collection[str]) -> list[str]:
        """Those of the ids that are no events of the room here."""
        rows = await self._database.rows_of(
            "known_events", "SELECT event_id, room_id FROM events WHERE", event_ids, "event_id"
        )
        known = {event_id for event_id, found in rows if found == room_id}
        return [event_id for event_id in event_ids if event_id not in known]

    async def facts(self, room_id: str, *, scan: bool = True) -> RoomFacts:
        """All that a plan for the room is made from; without a scan, only of its rejections."""
        version = await self._require_known_version(room_id)
        borrowed = await borrowed_in(self._database, room_id)
        defects = await self._scan.run(room_id) if scan else {}
        if borrowed and Finding.STALE_STATE in defects:
            stale_ids = [i for i in defects[Finding.STALE_STATE] if i not in borrowed]
            defects = {**defects, Finding.STALE_STATE: stale_ids}
        damaged = {i for finding in DAMAGE for i in defects.get(finding, ())}
        suspects = await read_nodes(
            self._database, {*damaged, *await self._rejected_ids(room_id)}, damaged=damaged
        )
        soft = await self._soft_failed(room_id, version, suspects, scan)
        stale = await self._others(defects.get(Finding.STALE_STATE, ()), suspects)
        unindexed = await self._others(
            defects.get(Finding.MISSING_SEARCH, ()), Union(suspects, soft.nodes)
        )
        unfinished = await self._others(await self._unfinished(room_id), suspects)
        extremities = await self.extremities(room_id)
        # At once: where the room goes on, what is an extremity now is followed soon.
        followed = await self.followed(extremities)
        return RoomFacts(
            room_id=room_id,
            room_version=version,
            suspects=suspects,
            stale=stale,
            unindexed=unindexed,
            unfinished=unfinished,
            current_state=await self.current_state(room_id),
            extremities=extremities,
            bad_extremities=frozenset(followed | await self.not_standing(extremities)),
            defects=_without_hidden(defects, soft.nodes),
            soft_failed={i: n for i, n in soft.nodes.items() if i not in suspects},
            withheld=soft.withheld,
            gaps=await self._gaps.read(room_id, suspects) if scan else Missing(),
            arrived=soft.arrived,
            borrowed=borrowed,
        )

    async def _soft_failed(
        self, room_id: str, version: str, suspects: NodeTable, scan: bool
    ) -> SoftFailed:
        if scan:
            return await self._soft.read(room_id, version, None)
        if not suspects:
            return SoftFailed({}, {}, {})
        return await self._soft.read(room_id, version, suspects.first_stored())

    async def spells(
        self, facts: RoomFacts, positions: Sequence[int], also: Collection[str]
    ) -> dict[str, Spell]:
        """The events that may have been forward extremities at some positions, by what is stored.

        Args:
            facts: the room as it is.
            positions: stream orderings, in order.
            also: other events to be looked up.
        """
        return await self._soft.spells(
            facts.room_id,
            positions,
            {*also, *facts.extremities},
            facts.arrived,
            facts.soft_failed.keys(),
        )

    async def _others(self, event_ids: Iterable[str], suspects: Collection[str]) -> NodeTable:
        return await read_nodes(self._database, [i for i in event_ids if i not in suspects])

    async def position(self, room_id: str) -> int:
        """The stream ordering of the room's newest event."""
        ((newest,),) = await self._database.rows(
            "position", "SELECT MAX(stream_ordering) FROM events WHERE room_id = ?", (room_id,)
        )
        return newest or 0

    async def current_state(self, room_id: str) -> StateIds:
        """The room's current state as stored."""
        rows = await self._database.rows(
            "current_state",
            "SELECT type, state_key, event_id FROM current_state_events WHERE room_id = ?",
            (room_id,),
        )
        return {(type_, state_key): event_id for type_, state_key, event_id in rows}

    async def extremities(self, room_id: str) -> frozenset[str]:
        """The room's forward extremities as stored."""
        rows = await self._database.rows(
            "extremities",
            "SELECT event_id FROM event_forward_extremities WHERE room_id = ?",
            (room_id,),
        )
        return frozenset(event_id for (event_id,) in rows)

    async def not_standing(self, event_ids: Collection[str]) -> set[str]:
        """Those of the events that are rejected, soft-failed, missing or outliers."""
        rows = await self._database.rows_of(
            "standing",
            "SELECT e.event_id, ej.internal_metadata FROM events AS e"
            " LEFT JOIN event_json AS ej ON ej.event_id = e.event_id"
            " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
            " WHERE r.event_id IS NULL AND NOT e.outlier AND",
            event_ids,
            "e.event_id",
        )
        return set(event_ids) - {i for i, metadata in rows if not _is_soft_failed(metadata)}

    async def accepted_children(self, event_ids: Collection[str]) -> dict[str, list[Node]]:
        """The accepted events in the database that follow each of the events."""
        edges = await self._database.rows_of(
            "children",
            "SELECT ee.prev_event_id, ee.event_id FROM event_edges AS ee"
            " INNER JOIN events AS e ON e.event_id = ee.event_id"
            " LEFT JOIN rejections AS r ON r.event_id = ee.event_id"
            " WHERE NOT e.outlier AND r.event_id IS NULL AND",
            event_ids,
            "ee.prev_event_id",
        )
        nodes = await self._light_nodes({child for _, child in edges})
        children: dict[str, list[Node]] = {}
        for parent, child in edges:
            children.setdefault(parent, []).append(nodes[child])
        return children

    async def _light_nodes(self, event_ids: Collection[str]) -> dict[str, Node]:
        """Accepted events as nodes, without reading their JSON (and so without auth events)."""
        prevs: dict[str, list[str]] = {}
        for event_id, prev in await self._database.rows_of(
            "prevs", "SELECT event_id, prev_event_id FROM event_edges WHERE", event_ids, "event_id"
        ):
            prevs.setdefault(event_id, []).append(prev)
        rows = await self._database.rows_of(
            "light_nodes",
            "SELECT e.event_id, e.type, se.state_key, e.sender, e.origin_server_ts, e.depth,"
            " e.stream_ordering FROM events AS e LEFT JOIN state_events AS se USING (event_id)"
            " WHERE",
            event_ids,
            "e.event_id",
        )
        return {
            event_id: Node(
                event_id,
                type_,
                state_key,
                sender,
                ts,
                depth,
                stream_ordering,
                prev_event_ids=tuple(prevs.get(event_id, ())),
                auth_event_ids=(),
            )
            for event_id, type_, state_key, sender, ts, depth, stream_ordering in rows
        }

    async def followed(self, event_ids: Collection[str]) -> set[str]:
        """Those of the events that count as followed when forward extremities are made.

        Mirrors `PersistEventsStore._get_events_which_are_prevs` (read in Synapse 1.151.0
        and 1.163.2).
        """
        rows = await self._database.rows_of(
            "followed",
            "SELECT ee.prev_event_id, ej.internal_metadata FROM event_edges AS ee"
            " INNER JOIN events AS e ON e.event_id = ee.event_id"
            " INNER JOIN event_json AS ej ON ej.event_id = ee.event_id"
            " LEFT JOIN rejections AS r ON r.event_id = ee.event_id"
            " WHERE NOT e.outlier AND r.event_id IS NULL AND",
            event_ids,
            "ee.prev_event_id",
        )
        return {prev for prev, metadata in rows if not _is_soft_failed(metadata)}

    async def state_groups(self, event_ids: Collection[str]) -> dict[str, int]:
        """The stored state group of each of the events that has one, outliers left out."""
        rows = await self._database.rows_of(
            "state_groups",
            "SELECT g.event_id, g.state_group FROM event_to_state_groups AS g"
            " INNER JOIN events AS e ON e.event_id = g.event_id WHERE NOT e.outlier AND",
            event_ids,
            "g.event_id",
        )
        return dict(rows)

    async def stream_orderings(self, event_ids: Collection[str]) -> dict[str, int]:
        """The order in which this server stored each of the events."""
        rows = await self._database.rows_of(
            "stream_orderings",
            "SELECT event_id, stream_ordering FROM events WHERE",
            event_ids,
            "event_id",
        )
        return dict(rows)

    async def _unfinished(self, room_id: str) -> list[str]:
        """What was done by jobs that did not come to their end, nor a later one.

        Of what they accepted the state events alone: the rest changes nobody's state.
        """
        rows = await self._database.rows(
            "unfinished",
            f"SELECT j.event_id FROM {JOBS} AS job"
            f" INNER JOIN {JOURNAL} AS j ON j.job_id = job.job_id"
            " LEFT JOIN state_events AS se ON se.event_id = j.event_id"
            " WHERE (j.action = ? OR (j.action = ? AND se.event_id IS NOT NULL))"
            " AND job.room_id = ? AND job.status <> 'complete' AND NOT EXISTS ("
            f"  SELECT 1 FROM {JOBS} AS later WHERE later.room_id = job.room_id"
            "   AND later.kind = job.kind AND later.status = 'complete'"
            "   AND later.created_ts > job.created_ts)",
            (Action.RESTATE.value, Action.RECEIVE.value, room_id),
        )
        return [event_id for (event_id,) in rows]

    async def newest_accepted(self, room_id: str) -> list[str]:
        """The accepted events that lie deepest in the room's DAG, the deepest first."""
        rows = await self._database.rows(
            "newest_accepted",
            "SELECT e.event_id FROM events AS e LEFT JOIN rejections AS r USING (event_id)"
            " WHERE e.room_id = ? AND NOT e.outlier AND r.event_id IS NULL"
            " ORDER BY e.topological_ordering DESC, e.stream_ordering DESC LIMIT 20",
            (room_id,),
        )
        return [event_id for (event_id,) in rows]

    async def servers_accepted_since(self, room_id: str, stream_ordering: int) -> list[str]:
        """The servers whose events were accepted after that position."""
        rows = await self._database.rows(
            "senders_since",
            "SELECT DISTINCT e.sender FROM events AS e LEFT JOIN rejections AS r USING (event_id)"
            " WHERE e.room_id = ? AND e.stream_ordering > ?"
            " AND NOT e.outlier AND r.event_id IS NULL",
            (room_id, stream_ordering),
        )
        return sorted({sender.partition(":")[2] for (sender,) in rows})

    async def bad_current_state(self, room_id: str) -> list[str]:
        """The events in the current state that are rejected or missing.

        Outliers are none: the state that a server is given when it joins consists of them.
        """
        state = set((await self.current_state(room_id)).values())
        rows = await self._database.rows_of(
            "in_state",
            "SELECT e.event_id FROM events AS e LEFT JOIN rejections AS r USING (event_id)"
            " WHERE r.event_id IS NULL AND",
            state,
            "e.event_id",
        )
        return sorted(state - {event_id for (event_id,) in rows})

    async def settled(self, room_id: str, since_ms: int) -> bool:
        """Whether every event that came in before that time has been processed.

        Synapse keeps an incoming event in `federation_inbound_events_staging` until it is
        done with it (`FederationServer._process_incoming_pdus_in_room_inner`, read in
        Synapse 1.151.0 and 1.163.2).
        """
        rows: list[tuple[Any, ...]] = await self._database.rows(
            "settled",
            "SELECT 1 FROM federation_inbound_events_staging"
            " WHERE room_id = ? AND received_ts <= ? LIMIT 1",
            (room_id, since_ms),
        )
        return not rows


def _without_hidden(
    defects: Mapping[Finding, list[str]], soft_failed: Collection[str]
) -> dict[Finding, list[str]]:
    """The defects without the search rows of events that the search hides anyway."""
    found = dict(defects)
    unindexed = [i for i in found.pop(Finding.MISSING_SEARCH, ()) if i not in soft_failed]
    return {**found, Finding.MISSING_SEARCH: unindexed} if unindexed else found


def _is_soft_failed(metadata: str | None) -> bool:
    return metadata is not None and bool(db_to_json(metadata).get("soft_failed"))
