"""What the database says of a room that a plan is made from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import chain

from typing_extensions import override

from synapse_rejection_repair.adapter.borrowed import borrowed_in
from synapse_rejection_repair.adapter.dag import SynapseDag
from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.defects import DAMAGE, DefectScan
from synapse_rejection_repair.adapter.gaps import GapReader
from synapse_rejection_repair.adapter.nodes import read_nodes
from synapse_rejection_repair.adapter.rooms import SynapseRooms
from synapse_rejection_repair.adapter.soft_failures import SoftFailed, SoftFailureReader
from synapse_rejection_repair.adapter.tables import JOBS, JOURNAL
from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.gaps import Missing
from synapse_rejection_repair.domain.health import Finding
from synapse_rejection_repair.domain.nodes import NodeTable, Union
from synapse_rejection_repair.domain.steps import Action
from synapse_rejection_repair.ports import FactsReader


class SynapseFacts(FactsReader):
    """Gathers the facts, on any of Synapse's processes.

    Args:
        database: Synapse's.
        rooms: knows the room as a whole.
        dag: knows its events.
        scan: finds what accepted events lack.
        soft: reads soft-failed events.
        gaps: finds what is missing.
    """

    def __init__(
        self,
        database: Database,
        rooms: SynapseRooms,
        dag: SynapseDag,
        scan: DefectScan,
        soft: SoftFailureReader,
        gaps: GapReader,
    ) -> None:
        self._database = database
        self._rooms = rooms
        self._dag = dag
        self._scan = scan
        self._soft = soft
        self._gaps = gaps

    @override
    async def read(self, room_id: str, *, scan: bool = True) -> RoomFacts:
        version = await self._rooms.require_known_version(room_id)
        borrowed = await borrowed_in(self._database, room_id)
        defects = await self._scan.run(room_id) if scan else {}
        if borrowed and Finding.STALE_STATE in defects:
            stale_ids = [i for i in defects[Finding.STALE_STATE] if i not in borrowed]
            defects = {**defects, Finding.STALE_STATE: stale_ids}
        damaged = {i for finding in DAMAGE for i in defects.get(finding, ())}
        suspects = await read_nodes(
            self._database, chain(damaged, await self._rejected_ids(room_id)), damaged=damaged
        )
        soft = await self._soft_failed(room_id, version, suspects, scan)
        stale = await self._others(defects.get(Finding.STALE_STATE, ()), suspects)
        unindexed = await self._others(
            defects.get(Finding.MISSING_SEARCH, ()), Union(suspects, soft.nodes)
        )
        unfinished = await self._others(await self._unfinished(room_id), suspects)
        extremities = await self._rooms.forward_extremities(room_id)
        # At once: where the room goes on, what is an extremity now is followed soon.
        followed = await self._dag.followed(extremities)
        return RoomFacts(
            room_id=room_id,
            room_version=version,
            suspects=suspects,
            stale=stale,
            unindexed=unindexed,
            unfinished=unfinished,
            current_state=await self._rooms.current_state(room_id),
            extremities=extremities,
            bad_extremities=frozenset(followed | await self._dag.not_standing(extremities)),
            defects=_without_hidden(defects, soft.nodes),
            soft_failed={i: n for i, n in soft.nodes.items() if i not in suspects},
            withheld=soft.withheld,
            gaps=await self._gaps.read(room_id, suspects) if scan else Missing(),
            arrived=soft.arrived,
            borrowed=borrowed,
        )

    async def _rejected_ids(self, room_id: str) -> list[str]:
        return await self._database.ids(
            "rejected_ids",
            "SELECT e.event_id FROM rejections AS r INNER JOIN events AS e USING (event_id)"
            " WHERE e.room_id = ?",
            (room_id,),
        )

    async def _soft_failed(
        self, room_id: str, version: str, suspects: NodeTable, scan: bool
    ) -> SoftFailed:
        since = None if scan or not suspects else suspects.first_stored()
        return await self._soft.read(room_id, version, since)

    async def _unfinished(self, room_id: str) -> list[str]:
        """What was done by jobs that did not come to their end, nor a later one.

        Of what they accepted the state events alone: the rest changes nobody's state.
        """
        return await self._database.ids(
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

    async def _others(self, event_ids: Iterable[str], suspects: Collection[str]) -> NodeTable:
        return await read_nodes(self._database, (i for i in event_ids if i not in suspects))


def _without_hidden(
    defects: Mapping[Finding, list[str]], soft_failed: Collection[str]
) -> dict[Finding, list[str]]:
    """The defects without the search rows of events that the search hides anyway."""
    found = dict(defects)
    unindexed = [i for i in found.pop(Finding.MISSING_SEARCH, ()) if i not in soft_failed]
    return {**found, Finding.MISSING_SEARCH: unindexed} if unindexed else found
