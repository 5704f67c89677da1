"""Finding what a room lacks since an incident."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import attr

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.nodes import read_nodes
from synapse_rejection_repair.adapter.tables import JOBS, JOURNAL
from synapse_rejection_repair.domain.gaps import Membership, Missing, stay_began
from synapse_rejection_repair.domain.model import Node, server_of
from synapse_rejection_repair.ports import Clock


@attr.s(frozen=True, slots=True, auto_attribs=True)
class GapReader:
    """Finds the events that are missing in a room since it was first wronged.

    What is missing from before is none of ours: every server that was ever down has such gaps,
    and Synapse fills them where somebody scrolls up to them.

    Attributes:
        database: Synapse's.
        server_name: this server's name.
        clock: runs what takes long in threads.
    """

    database: Database
    server_name: str
    clock: Clock

    async def read(self, room_id: str, suspects: Mapping[str, Node]) -> Missing:
        """What is missing in a room since it was first wronged, as far as that can be told.

        Args:
            room_id: the room.
            suspects: its rejected and damaged events, which Synapse keeps no such record of.
        """
        since = await self.repaired_since(room_id)
        shallowest = await self.clock.in_thread(_shallowest, suspects)
        floor = await self.floor(room_id, [d for d in (since, shallowest) if d is not None])
        if floor is None:
            return Missing(since=since)
        rows = await self.database.rows(
            "backward_extremities",
            "SELECT be.event_id, e.event_id, e.depth FROM event_backward_extremities AS be"
            " INNER JOIN event_edges AS ee ON ee.prev_event_id = be.event_id"
            " INNER JOIN events AS e ON e.event_id = ee.event_id"
            " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
            " WHERE be.room_id = ? AND r.event_id IS NULL AND NOT e.outlier AND e.depth > ?",
            (room_id, floor),
        )
        cited: dict[str, dict[str, int]] = {}
        for prev, event_id, depth in rows:
            cited.setdefault(prev, {})[event_id] = depth
        for prev, node in await self.clock.in_thread(_leading_out, suspects, floor):
            cited.setdefault(prev, {})[node.event_id] = node.depth
        here = await self.here(cited)
        tips = await self._tips(room_id, floor, cited)
        return Missing({i: c for i, c in sorted(cited.items()) if i not in here}, tips, since)

    async def _tips(self, room_id: str, floor: int, cited: Collection[str]) -> dict[str, Node]:
        """Memberships of local users that are outliers, though all that they follow is here.

        Args:
            room_id: the room.
            floor: the depth down from which they count.
            cited: what something here follows.
        """
        rows = await self.database.rows(
            "outlying_memberships",
            "SELECT e.event_id, m.user_id FROM room_memberships AS m"
            " INNER JOIN events AS e ON e.event_id = m.event_id"
            " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
            " WHERE m.room_id = ? AND m.user_id LIKE ? AND r.event_id IS NULL AND e.outlier"
            " AND e.depth > ? AND NOT EXISTS ("
            "  SELECT 1 FROM event_edges AS ee WHERE ee.prev_event_id = e.event_id)",
            (room_id, f"%:{self.server_name}", floor),
        )
        ours = [i for i, user_id in rows if server_of(user_id) == self.server_name]
        nodes = await read_nodes(self.database, [i for i in ours if i not in cited])
        here = await self.here({p for node in nodes.values() for p in node.prev_event_ids})
        return {
            i: node
            for i, node in nodes.items()
            if node.prev_event_ids and here.issuperset(node.prev_event_ids)
        }

    async def floor(self, room_id: str, depths: Collection[int]) -> int | None:
        """The depth down from which something can be missing; `None` if nothing can.

        Args:
            room_id: the room.
            depths: those of the events that were wronged.
        """
        stay = await self.stay_began(room_id) if depths else None
        return None if stay is None else max(stay, min(depths))

    async def repaired_since(self, room_id: str) -> int | None:
        """The least depth of the events that repairs have accepted in a room."""
        ((depth,),) = await self.database.rows(
            "shallowest_repaired",
            f"SELECT MIN(e.depth) FROM {JOBS} AS job"
            f" INNER JOIN {JOURNAL} AS j ON j.job_id = job.job_id"
            " INNER JOIN events AS e ON e.event_id = j.event_id"
            " WHERE job.room_id = ? AND job.kind = 'repair' AND j.action = 'receive'",
            (room_id,),
        )
        return None if depth is None else int(depth)

    async def stay_began(self, room_id: str) -> int | None:
        """The depth at which this server came into a room last."""
        rows = await self.database.rows(
            "local_memberships",
            "SELECT e.depth, e.stream_ordering, m.user_id, m.membership"
            " FROM room_memberships AS m INNER JOIN events AS e ON e.event_id = m.event_id"
            " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
            " WHERE m.room_id = ? AND m.user_id LIKE ? AND r.event_id IS NULL AND NOT e.outlier",
            (room_id, f"%:{self.server_name}"),
        )
        return stay_began(
            Membership(depth, stream_ordering, user_id, membership == "join")
            for depth, stream_ordering, user_id, membership in rows
            if server_of(user_id) == self.server_name
        )

    async def here(self, event_ids: Collection[str]) -> set[str]:
        """Those of the events that are stored, rejected or not, but no outliers."""
        rows = await self.database.rows_of(
            "stored", "SELECT event_id FROM events WHERE NOT outlier AND", event_ids, "event_id"
        )
        return {event_id for (event_id,) in rows}


def _shallowest(suspects: Mapping[str, Node]) -> int | None:
    """The least depth of some events that are no outliers."""
    return min((node.depth for node in suspects.values() if not node.outlier), default=None)


def _leading_out(suspects: Mapping[str, Node], floor: int) -> list[tuple[str, Node]]:
    """Prev events of suspects that are below a depth which are no suspects themselves."""
    return [
        (prev, node)
        for node in suspects.values()
        if not node.outlier and node.depth > floor
        for prev in node.prev_event_ids
        if prev not in suspects or suspects[prev].outlier
    ]
