"""What an old Synapse database says of its rooms, on whatever connection."""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any

from synapse_rejection_repair.domain.model import StateIds, StateKey
from synapse_rejection_repair.domain.source import Position, SourceEvent
from synapse_rejection_repair.sources.connection import Connection, batches, marks
from synapse_rejection_repair.sources.media import MediaTables
from synapse_rejection_repair.sources.schema import Schema, examine

_TRACKED = 20_000
"""Of how many state groups what decides visibility is remembered."""

_EVENT = (
    "SELECT e.event_id, e.topological_ordering, e.stream_ordering, ej.json,"
    " ej.internal_metadata, g.state_group, r.event_id IS NOT NULL, e.outlier"
    " FROM events AS e LEFT JOIN event_json AS ej ON ej.event_id = e.event_id"
    " LEFT JOIN event_to_state_groups AS g ON g.event_id = e.event_id"
    " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
)

_Tracked = tuple["str | None", StateIds]


class SourceDatabase:
    """Reads an old database, a batch at a time, and blocks while it does.

    Args:
        connection: to the database.

    Raises:
        SchemaRefused: it is none of Synapse's, or too old.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._schema: Schema = examine(connection)
        self._tracked: OrderedDict[int, _Tracked] = OrderedDict()
        self._previous: OrderedDict[int, int | None] = OrderedDict()
        self.media = MediaTables(connection)

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def rooms(self) -> dict[str, int]:
        """How many events the old server has accepted, by room."""
        return dict(
            self._connection.query(
                "SELECT e.room_id, COUNT(*) FROM events AS e"
                " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
                " WHERE NOT e.outlier AND r.event_id IS NULL GROUP BY e.room_id"
            )
        )

    def room_version(self, room_id: str) -> str | None:
        """The room's version, `None` if unknown."""
        if not self._schema.room_versions:
            return None
        rows = self._connection.query(
            "SELECT room_version FROM rooms WHERE room_id = ?", (room_id,)
        )
        return rows[0][0] if rows else None

    def count(self, room_id: str) -> int:
        """How many events of the room there are that are no outliers."""
        ((count,),) = self._connection.query(
            "SELECT COUNT(*) FROM events WHERE room_id = ? AND NOT outlier", (room_id,)
        )
        return int(count)

    def accepted_ids(self, room_id: str, after: Position, limit: int) -> list[tuple[Position, str]]:
        """The next of the room's accepted events, in the source's order."""
        rows = self._connection.query(
            "SELECT e.topological_ordering, e.stream_ordering, e.event_id FROM events AS e"
            " LEFT JOIN rejections AS r ON r.event_id = e.event_id"
            " WHERE e.room_id = ? AND NOT e.outlier AND r.event_id IS NULL"
            " AND (e.topological_ordering, e.stream_ordering) > (?, ?)"
            " ORDER BY e.topological_ordering, e.stream_ordering LIMIT ?",
            (room_id, *after, limit),
        )
        return [(Position(topological, stream), i) for topological, stream, i in rows]

    def history(self, room_id: str, after: Position, limit: int) -> list[SourceEvent]:
        """The next of the room's events that are no outliers, in the source's order."""
        rows = self._connection.query(
            f"{_EVENT} WHERE e.room_id = ? AND NOT e.outlier"
            " AND (e.topological_ordering, e.stream_ordering) > (?, ?)"
            " ORDER BY e.topological_ordering, e.stream_ordering LIMIT ?",
            (room_id, *after, limit),
        )
        return self._events(rows)

    def events(self, room_id: str, event_ids: Collection[str]) -> dict[str, SourceEvent]:
        """Some of the room's events, outliers too; unknown ids are left out."""
        rows: list[tuple[Any, ...]] = []
        for ids in batches(event_ids):
            rows += self._connection.query(
                f"{_EVENT} WHERE e.room_id = ? AND e.event_id IN ({marks(ids)})", (room_id, *ids)
            )
        return {event.event_id: event for event in self._events(rows)}

    def positions(self, room_id: str, event_ids: Collection[str]) -> dict[str, Position]:
        """Where those of the events are in its order that it has as no outliers."""
        found = {}
        for ids in batches(event_ids):
            for event_id, topological, stream in self._connection.query(
                "SELECT event_id, topological_ordering, stream_ordering FROM events"
                f" WHERE room_id = ? AND NOT outlier AND event_id IN ({marks(ids)})",
                (room_id, *ids),
            ):
                found[event_id] = Position(topological, stream)
        return found

    def _events(self, rows: Collection[tuple[Any, ...]]) -> list[SourceEvent]:
        cited = self._cited([row[0] for row in rows if row[6]])
        return [
            SourceEvent(
                event_id=event_id,
                position=Position(topological, stream),
                pdu=_object(text),
                state_group=group,
                rejected=bool(rejected),
                outlier=bool(outlier),
                soft_failed=(_object(metadata) or {}).get("soft_failed") is True,
                cited=event_id in cited,
            )
            for event_id, topological, stream, text, metadata, group, rejected, outlier in rows
        ]

    def _cited(self, event_ids: Collection[str]) -> set[str]:
        """Those of the events that an accepted event follows."""
        cited: set[str] = set()
        for ids in batches(event_ids):
            cited.update(
                event_id
                for (event_id,) in self._connection.query(
                    "SELECT DISTINCT ee.prev_event_id FROM event_edges AS ee"
                    " INNER JOIN events AS e ON e.event_id = ee.event_id"
                    " LEFT JOIN rejections AS r ON r.event_id = ee.event_id"
                    " WHERE NOT e.outlier AND r.event_id IS NULL"
                    f" AND ee.prev_event_id IN ({marks(ids)})",
                    ids,
                )
            )
        return cited

    def state_before(self, event: SourceEvent) -> StateIds:
        """The state before one of its events; empty if it does not know it."""
        if event.state_group is None or event.pdu is None:
            return {}
        if "state_key" not in event.pdu or event.rejected:
            return self._state(event.state_group)
        # What is stored of a state event is the state after it, as a change of the one before.
        edges = self._edges([event.state_group])
        if event.state_group in edges and self._deltas([event.state_group]) == {
            event.state_group: {(event.pdu.get("type"), event.pdu["state_key"]): event.event_id}
        }:
            return self._state(edges[event.state_group])
        state = self._state(event.state_group)
        return {key: event_id for key, event_id in state.items() if event_id != event.event_id}

    def groups_before(self, events: Sequence[SourceEvent]) -> dict[str, int]:
        """The state groups before those of its events of which it knows one."""
        groups: dict[str, int] = {}
        of_state: dict[str, int] = {}
        for event in events:
            if event.state_group is None or event.pdu is None:
                continue
            groups[event.event_id] = event.state_group
            if "state_key" in event.pdu and not event.rejected:
                of_state[event.event_id] = event.state_group
        edges = self._edges(of_state.values())
        changes = self._deltas([g for g in of_state.values() if g in edges])
        for event_id, after in of_state.items():
            del groups[event_id]
            # Others begin a chain of changes anew: what was before them, they do not say.
            if after in edges and list(changes.get(after, {}).values()) == [event_id]:
                groups[event_id] = edges[after]
        return groups

    def entries(self, group: int, keys: Collection[StateKey]) -> StateIds:
        """Some entries of the state of one of its state groups."""
        state: dict[StateKey, str] = {}
        chain = self._chain(group)
        nearest = {one: steps for steps, one in enumerate(chain)}
        for type_, state_key in keys:
            found: list[tuple[int, str]] = []
            for some in batches(chain):
                found += self._connection.query(
                    "SELECT state_group, event_id FROM state_groups_state"
                    f" WHERE state_group IN ({marks(some)}) AND type = ? AND state_key = ?",
                    (*some, type_, state_key),
                )
            if found:
                state[type_, state_key] = min(found, key=lambda row: nearest[row[0]])[1]
        return state

    def _chain(self, group: int) -> list[int]:
        """A state group and those that it is a change of, back to one that is complete."""
        chain, seen = [group], {group}
        while (before := self._before(chain[-1])) is not None:
            if before in seen:
                break
            chain.append(before)
            seen.add(before)
        return chain

    def _before(self, group: int) -> int | None:
        if group not in self._previous:
            self._previous[group] = self._edges([group]).get(group)
            while len(self._previous) > _TRACKED:
                self._previous.popitem(last=False)
        return self._previous[group]

    def _state(self, group: int) -> dict[StateKey, str]:
        chain = self._chain(group)
        deltas = self._deltas(chain)
        state: dict[StateKey, str] = {}
        for one in reversed(chain):
            state.update(deltas.get(one, {}))
        return state

    def _edges(self, groups: Collection[int]) -> dict[int, int]:
        found: dict[int, int] = {}
        for some in batches(groups):
            found.update(
                self._connection.query(
                    "SELECT state_group, prev_state_group FROM state_group_edges"
                    f" WHERE state_group IN ({marks(some)})",
                    some,
                )
            )
        return found

    def _deltas(
        self, groups: Collection[int], server_name: str | None = None
    ) -> dict[int, dict[StateKey, str]]:
        """What groups change; with a server's name, only what decides what its users see."""
        which = ""
        if server_name is not None:
            which = (
                " AND (type = 'm.room.history_visibility' AND state_key = ''"
                " OR type = 'm.room.member' AND state_key LIKE ?)"
            )
        found: dict[int, dict[StateKey, str]] = {}
        for some in batches(groups):
            args: tuple[object, ...] = (*some,)
            if server_name is not None:
                args = (*some, f"%:{server_name}")
            for group, type_, state_key, event_id in self._connection.query(
                "SELECT state_group, type, state_key, event_id FROM state_groups_state"
                f" WHERE state_group IN ({marks(some)}){which}",
                args,
            ):
                found.setdefault(group, {})[type_, state_key] = event_id
        return found

    def tracked(self, groups: Collection[int], server_name: str) -> dict[int, _Tracked]:
        """What of some states decides who of a server's users may see an event.

        Gives for each state group the event that sets the history visibility, and the
        membership events of the server's users.
        """
        before: dict[int, int] = {}
        level = {group for group in groups if group not in self._tracked}
        unknown = set(level)
        while level:
            edges = self._edges(level)
            before.update(edges)
            level = {g for g in edges.values() if g not in self._tracked and g not in unknown}
            unknown |= level
        deltas = self._deltas(unknown, server_name)
        for group in unknown:
            path = []
            at: int | None = group
            while at is not None and at not in self._tracked and at not in path:
                path.append(at)
                at = before.get(at)
            for one in reversed(path):
                visibility, members = self._tracked.get(before.get(one, one), (None, {}))
                if delta := deltas.get(one):
                    members = dict(members)
                    for key, event_id in delta.items():
                        if key[0] == "m.room.member":
                            members[key] = event_id
                        else:
                            visibility = event_id
                self._tracked[one] = (visibility, members)
        answer = {group: self._tracked[group] for group in groups}
        while len(self._tracked) > _TRACKED:
            self._tracked.popitem(last=False)
        return answer

    def verify_keys(self, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """The keys that it has cached, by server and key id, in unpadded base64."""
        if not self._schema.keys:
            return {}
        found = {}
        for server, key_id in wanted:
            for (key,) in self._connection.query(
                "SELECT verify_key FROM server_signature_keys WHERE server_name = ? AND key_id = ?",
                (server, key_id),
            ):
                found[server, key_id] = base64.b64encode(bytes(key)).decode().rstrip("=")
        return found


def _object(text: object) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if isinstance(text, (str, bytes)) else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
