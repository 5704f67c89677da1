"""Reading a room's soft-failed events, and what was a forward extremity when they arrived."""

from __future__ import annotations

import json as json_
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import attr
from synapse.api.errors import SynapseError
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion
from synapse.crypto.event_signing import check_event_content_hash
from synapse.events import make_event_from_dict
from synapse.storage.database import LoggingTransaction

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.json_object import json_object
from synapse_rejection_repair.adapter.nodes import read_nodes
from synapse_rejection_repair.adapter.stored_events import MALFORMED
from synapse_rejection_repair.adapter.tables import JOBS, JOURNAL
from synapse_rejection_repair.domain.model import Node
from synapse_rejection_repair.domain.steps import Action
from synapse_rejection_repair.domain.tips import FOREVER, Spell
from synapse_rejection_repair.ports import Clock

SCAN = 5000
"""How many of a room's events one query looks at."""

_JOURNAL_PAGE = 500

_SPAM = "It was soft-failed as spam, by a module or a policy server"
_JUDGED = "A repair has let it in so, by what this server knew when it arrived"

WINDOW = """
    SELECT event_id, stream_ordering FROM events
    WHERE room_id = ? AND stream_ordering > ? ORDER BY stream_ordering LIMIT ?"""

MARKED = f"""
    SELECT ej.event_id, ej.internal_metadata, ej.json
    FROM ({WINDOW}) AS w
    INNER JOIN event_json AS ej ON ej.event_id = w.event_id
    INNER JOIN events AS e ON e.event_id = w.event_id
    LEFT JOIN rejections AS r ON r.event_id = w.event_id
    WHERE ej.internal_metadata LIKE ? AND r.event_id IS NULL AND NOT e.outlier"""

_EDGES = f"""
    SELECT e.event_id, e.stream_ordering, ee.prev_event_id
    FROM ({WINDOW}) AS w
    INNER JOIN events AS e ON e.event_id = w.event_id
    INNER JOIN event_edges AS ee ON ee.event_id = e.event_id
    LEFT JOIN rejections AS r ON r.event_id = e.event_id
    WHERE r.event_id IS NULL AND NOT e.outlier"""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class SoftFailed:
    """A room's soft-failed events; see `RoomFacts`."""

    nodes: dict[str, Node]
    withheld: dict[str, str]
    arrived: dict[str, int]


@attr.s(frozen=True, slots=True, auto_attribs=True)
class SoftFailureReader:
    """Reads what it takes to judge soft-failed events again.

    Attributes:
        database: Synapse's.
        clock: lets the server breathe.
    """

    database: Database
    clock: Clock

    async def read(self, room_id: str, room_version: str, since: int | None) -> SoftFailed:
        """The soft-failed events of a room.

        Args:
            room_id: the room.
            room_version: its version's identifier.
            since: only those stored from this position on; `None` for all.
        """
        version = KNOWN_ROOM_VERSIONS[room_version]
        found: dict[str, str | None] = {}
        position: int | None = -(2**63) if since is None else since - 1
        while position is not None:
            window = (room_id, position, SCAN)
            found.update(await self.database.run("soft_failed", _marked, window, version))
            position = await self._next(window)
            await self.clock.breathe()
        if not found:
            return SoftFailed({}, {}, {})
        nodes = await read_nodes(self.database, found)
        arrived, judged = await self._journal(room_id)
        withheld = {i: why for i, why in found.items() if why is not None}
        withheld.update((i, _JUDGED) for i in found.keys() & judged)
        marked = await self.clock.in_thread(_as_soft_failed, nodes)
        return SoftFailed(marked, withheld, arrived)

    async def _next(self, window: tuple[str, int, int]) -> int | None:
        ((count, last),) = await self.database.rows(
            "soft_failed_next",
            f"SELECT COUNT(*), MAX(stream_ordering) FROM ({WINDOW}) AS w",
            window,
        )
        return int(last) if count == window[2] else None

    async def _journal(self, room_id: str) -> tuple[dict[str, int], set[str]]:
        """Where events arrived that repairs stored anew, and those that were not accepted then."""
        arrived: dict[str, int] = {}
        judged: set[str] = set()
        jobs = await self.database.rows(
            "room_jobs",
            f"SELECT job_id FROM {JOBS} WHERE room_id = ? AND kind = 'repair' ORDER BY created_ts",
            (room_id,),
        )
        for (job_id,) in jobs:
            after: str | None = ""
            while after is not None:
                page = await self.database.run("arrivals", _arrivals, job_id, after)
                for event_id, position, was_soft_failed in page:
                    arrived.setdefault(event_id, position)
                    if not was_soft_failed:
                        judged.add(event_id)
                after = page[-1][0] if len(page) == _JOURNAL_PAGE else None
                await self.clock.breathe()
        return arrived, judged

    async def spells(
        self,
        room_id: str,
        positions: Sequence[int],
        also: Collection[str],
        arrived: Mapping[str, int],
        soft_failed: Collection[str],
    ) -> dict[str, Spell]:
        """The events that may have been forward extremities at some positions.

        Args:
            room_id: the room.
            positions: stream orderings, in order.
            also: other events to be looked up.
            arrived: where events arrived first that were stored anew since.
            soft_failed: events that count as following none.
        """
        candidates = set(also)
        position: int | None = positions[0] - 1
        while position is not None:
            window = (room_id, position, SCAN)
            edges = [
                (arrived.get(child, stored), prev)
                for child, stored, prev in await self.database.rows("edges", _EDGES, window)
                if child not in soft_failed
            ]
            here = await self._arrivals({prev for _, prev in edges}, arrived)
            candidates.update(
                prev
                for child_at, prev in edges
                if prev in here and _any_between(positions, here[prev], child_at)
            )
            position = await self._next(window)
            await self.clock.breathe()
        here = await self._arrivals(candidates, arrived)
        children = await self.database.rows_of(
            "first_children",
            "SELECT ee.prev_event_id, e.event_id, e.stream_ordering FROM event_edges AS ee"
            " INNER JOIN events AS e ON e.event_id = ee.event_id"
            " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
            " WHERE NOT e.outlier AND r.event_id IS NULL AND",
            here,
            "ee.prev_event_id",
        )
        return await self.clock.in_thread(_spells, here, children, arrived, soft_failed)

    async def _arrivals(
        self, event_ids: Collection[str], arrived: Mapping[str, int]
    ) -> dict[str, int]:
        """Where those of the events arrived that came in as they happened."""
        rows = await self.database.rows_of(
            "arrivals",
            "SELECT event_id, stream_ordering FROM events WHERE NOT outlier AND",
            event_ids,
            "event_id",
        )
        return await self.clock.in_thread(_in_time, rows, arrived)


def _in_time(rows: Iterable[tuple[str, int]], arrived: Mapping[str, int]) -> dict[str, int]:
    found = ((event_id, arrived.get(event_id, stored)) for event_id, stored in rows)
    return {event_id: position for event_id, position in found if position > 0}


def _spells(
    here: Mapping[str, int],
    children: Iterable[tuple[str, str, int]],
    arrived: Mapping[str, int],
    soft_failed: Collection[str],
) -> dict[str, Spell]:
    until: dict[str, int] = {}
    for prev, child, stored in children:
        if child not in soft_failed:
            until[prev] = min(until.get(prev, FOREVER), arrived.get(child, stored))
    return {i: Spell(since, until.get(i, FOREVER)) for i, since in here.items()}


def _as_soft_failed(nodes: Mapping[str, Node]) -> dict[str, Node]:
    return {i: attr.evolve(node, soft_failed=True) for i, node in nodes.items()}


def _any_between(positions: Sequence[int], after: int, until: int) -> bool:
    return bisect_right(positions, after) < bisect_right(positions, until)


def _marked(
    txn: LoggingTransaction, window: tuple[str, int, int], version: RoomVersion
) -> list[tuple[str, str | None]]:
    """The soft-failed events of a window, each with the reason to judge it no more, if any."""
    txn.execute(MARKED, (*window, "%soft_failed%"))
    found = []
    for event_id, metadata, json in txn:
        marks = json_object(metadata)
        if marks.get("soft_failed"):
            found.append((event_id, _SPAM if _is_spam(marks, json, version) else None))
    return found


def _is_spam(marks: dict[str, Any], json: str, version: RoomVersion) -> bool:
    """Whether an event was soft-failed for what it says.

    What a module takes for spam is stored redacted (`FederationBase._check_sigs_and_hash`,
    read in Synapse 1.151.0 and 1.163.2), and so marked by newer versions only.
    """
    if marks.get("policy_server_spammy") or marks.get("spam_checker_spammy"):
        return True
    try:
        return not check_event_content_hash(make_event_from_dict(json_object(json), version))
    except (SynapseError, *MALFORMED):
        return True


def _arrivals(txn: LoggingTransaction, job_id: str, after: str) -> list[tuple[str, int, bool]]:
    txn.execute(
        f"SELECT event_id, original_rows FROM {JOURNAL}"
        " WHERE job_id = ? AND action = ? AND event_id > ? ORDER BY event_id LIMIT ?",
        (job_id, Action.RECEIVE.value, after, _JOURNAL_PAGE),
    )
    found = []
    for event_id, text in txn:
        rows = json_.loads(text)
        metadata = [json_object(row["internal_metadata"]) for row in rows["event_json"]]
        found.append(
            (
                event_id,
                int(rows["events"][0]["stream_ordering"]),
                any(m.get("soft_failed") for m in metadata) and "rejections" not in rows,
            )
        )
    return found
