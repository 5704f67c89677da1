"""What an old Synapse database says of the states at events."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence

from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.model import StateIds, StateKey
from synapse_rejection_repair.domain.remembering import forget_oldest
from synapse_rejection_repair.domain.source import SourceEvent
from synapse_rejection_repair.sources.connection import Connection, marks

_REMEMBERED = 5_000
"""Of how many state groups, and how many entries of them, something is remembered."""

_Tracked = tuple["str | None", StateIds]


class StateTables:
    """Reads the state groups of an old database, each of which is a change of another.

    Args:
        connection: to the database.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tracked: OrderedDict[int, _Tracked] = OrderedDict()
        self._previous: OrderedDict[int, int | None] = OrderedDict()
        self._entries: OrderedDict[tuple[int, StateKey], str | None] = OrderedDict()

    def state_before(self, event: SourceEvent) -> StateIds:
        """The state before one of its events; empty if it does not know it."""
        if event.state_group is None or event.pdu is None:
            return {}
        if "state_key" not in event.pdu:
            return self.state(event.state_group)
        # What is stored of a state event is the state after it, as a change of the one before.
        edges = self._edges([event.state_group])
        if event.state_group in edges and self._deltas([event.state_group]) == {
            event.state_group: {(event.pdu.get("type"), event.pdu["state_key"]): event.event_id}
        }:
            return self.state(edges[event.state_group])
        # Of one that was rejected as it came it is the state before it.
        if event.rejected:
            return self.state(event.state_group)
        # Where the state before was purged, the event still says what it has replaced.
        state = self.state(event.state_group)
        return {
            key: event_id
            for key, found in state.items()
            if (event_id := event.replaces if found == event.event_id else found) is not None
        }

    def groups_before(self, events: Sequence[SourceEvent]) -> dict[str, int]:
        """The state groups before those of its events of which it knows one."""
        groups: dict[str, int] = {}
        of_state: dict[str, int] = {}
        for event in events:
            if event.state_group is None or event.pdu is None:
                continue
            groups[event.event_id] = event.state_group
            if "state_key" in event.pdu:
                of_state[event.event_id] = event.state_group
        edges = self._edges(of_state.values())
        changes = self._deltas([g for g in of_state.values() if g in edges])
        rejected = {event.event_id for event in events if event.rejected}
        for event_id, after in of_state.items():
            # Of one that was rejected as it came it is the state before it.
            if event_id not in rejected:
                del groups[event_id]
            # Others begin a chain of changes anew: what was before them, they do not say.
            if after in edges and list(changes.get(after, {}).values()) == [event_id]:
                groups[event_id] = edges[after]
        return groups

    def entries(self, group: int, keys: Collection[StateKey]) -> StateIds:
        """Some entries of the state of one of its state groups."""
        chain, at = dict[int, None](), group
        while not all((at, key) in self._entries for key in keys):
            chain[at] = None
            before = self._before(at)
            if before is None or before in chain:
                break
            at = before
        state = {key: self._entries.get((at, key)) for key in keys}
        # Two lists, which give some more than the pairs: told the pairs, a SQLite database that was
        # never analysed goes through the whole state of each group.
        types, state_keys = ({key[part] for key in keys} for part in (0, 1))
        for some in batches(reversed(chain)):
            order = {one: number for number, one in enumerate(some)}
            rows = self._connection.query(
                "SELECT state_group, type, state_key, event_id FROM state_groups_state"
                f" WHERE state_group IN ({marks(some)})"
                f" AND type IN ({marks(types)}) AND state_key IN ({marks(state_keys)})",
                (*some, *types, *state_keys),
            )
            for _, type_, state_key, event_id in sorted(rows, key=lambda row: order[row[0]]):
                if (type_, state_key) in state:
                    state[type_, state_key] = event_id
        for key in keys:
            self._entries[group, key] = state[key]
        forget_oldest(self._entries, _REMEMBERED)
        return {key: event_id for key, event_id in state.items() if event_id is not None}

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
            forget_oldest(self._previous, _REMEMBERED)
        return self._previous[group]

    def state(self, group: int) -> dict[StateKey, str]:
        """The state of one of its state groups."""
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
        forget_oldest(self._tracked, _REMEMBERED)
        return answer
