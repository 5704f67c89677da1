"""Compares what two servers have of one room, table by table and call by call.

One server never erred; of the other this finds every trace that it ever did. Only what both
servers should have is compared: the part of the room since the other one joined.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from tests.harness.client import Client, JsonDict, quoted
from tests.harness.database import Database, PostgresDatabase, Row
from tests.harness.federation import Room
from tests.harness.server import Server

StateKey = tuple[str, str]
State = dict[StateKey, str]
Facets = dict[str, Any]


def differences(room: Room, *, rejected: Collection[str] = ()) -> dict[str, str]:
    """Finds in what B differs from A, in the database and for users.

    Args:
        room: The room, in which nothing is on its way any more.
        rejected: What B rejects for good reason, and A does not have.

    Returns:
        What differs, and how, by what it is called; nothing if B is as if it had never erred.
    """
    right, other = database_facets(room, room.a), database_facets(room, room.b)
    found = _differences(right, {**other, "rejected": other["rejected"] - {*rejected}})
    found.update(_differences(api_facets(room, room.alice), api_facets(room, room.bob)))
    found.update({name: str(rows) for name, rows in inconsistencies(room.b, room.room_id).items()})
    return found


def _differences(right: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: describe(value, other[name]) for name, value in right.items() if value != other[name]
    }


def describe(right: Any, other: Any) -> str:
    """Says in what two values differ, in a few lines."""
    if isinstance(right, Mapping) and isinstance(other, Mapping):
        keys = [k for k in {*right, *other} if right.get(k) != other.get(k)]
        parts = (f"{k}: {right.get(k)!r} is {other.get(k)!r}" for k in keys[:5])
        return f"{len(keys)} differ: {'; '.join(parts)}"
    if isinstance(right, set | frozenset) and isinstance(other, set | frozenset):
        return f"lacks {sorted(right - other)[:5]}, has {sorted(other - right)[:5]} besides"
    return f"{right!r} is {other!r}"


# What the database says.


def shared_events(room: Room) -> set[str]:
    """Returns the events that A has accepted since B joined: what B should have."""
    sql = (
        "SELECT MIN(e.depth) FROM events AS e JOIN room_memberships AS m USING (event_id)"
        " WHERE e.room_id = ? AND m.user_id = ? AND NOT e.outlier"
    )
    joined = room.a.database.value(sql, room.room_id, room.bob.user_id)
    sql = (
        "SELECT event_id FROM events LEFT JOIN rejections AS r USING (event_id)"
        " WHERE room_id = ? AND depth >= ? AND NOT outlier AND r.event_id IS NULL"
    )
    return {event_id for (event_id,) in room.a.database.query(sql, room.room_id, joined)}


_OF_EVENTS = {
    "events": "SELECT event_id, type, sender, depth, origin_server_ts, state_key, contains_url,"
    " processed, outlier FROM events WHERE room_id = ?",
    "edges": "SELECT event_id, prev_event_id FROM event_edges"
    " JOIN events USING (event_id) WHERE events.room_id = ?",
    "auth events": "SELECT event_id, auth_id FROM event_auth WHERE room_id = ?",
    "state events": "SELECT event_id, type, state_key FROM state_events WHERE room_id = ?",
    "memberships": "SELECT event_id, user_id, sender, membership, forgotten, display_name,"
    " avatar_url FROM room_memberships WHERE room_id = ?",
    "relations": "SELECT event_id, relates_to_id, relation_type, aggregation_key"
    " FROM event_relations JOIN events USING (event_id) WHERE room_id = ?",
    "redactions": "SELECT event_id, redacts FROM redactions JOIN events USING (event_id)"
    " WHERE room_id = ?",
    "search rows": "SELECT event_id, key FROM event_search WHERE room_id = ?",
    "labels": "SELECT event_id, label FROM event_labels WHERE room_id = ?",
    "retention": "SELECT event_id, min_lifetime, max_lifetime FROM room_retention"
    " WHERE room_id = ?",
}
"""Tables that have rows of single events."""

_OF_ROOMS = {
    "current state": "SELECT type, state_key, event_id, membership FROM current_state_events"
    " WHERE room_id = ?",
    "extremities": "SELECT event_id FROM event_forward_extremities WHERE room_id = ?",
    "threads": "SELECT thread_id, latest_event_id FROM threads WHERE room_id = ?",
    "sliding sync's rooms": "SELECT room_type, room_name, is_encrypted,"
    " tombstone_successor_room_id FROM sliding_sync_joined_rooms WHERE room_id = ?",
}
"""Tables of rooms as they are now."""


def database_facets(room: Room, server: Server) -> Facets:
    """Reads a server's view of a room, as far as it should equal another's."""
    r, query = room.room_id, server.database.query
    shared = shared_events(room)
    facets: Facets = {
        name: {row for row in map(_plain, query(sql, r)) if row[0] in shared}
        for name, sql in _OF_EVENTS.items()
    }
    facets |= {name: set(map(_plain, query(sql, r))) for name, sql in _OF_ROOMS.items()}
    facets["rejected"] = server.rejected(r)
    sql = "SELECT event_id FROM events WHERE room_id = ? AND rejection_reason IS NOT NULL"
    marked = {event_id for (event_id,) in query(sql, r)}
    facets["marks of rejection"] = marked ^ facets["rejected"]
    states = states_after(server, r)
    facets["state after each event"] = {i: states.get(i) for i in shared}
    facets["auth chains"] = {i: reached for i, reached in auth_chains(server, r).items() if reached}
    facets["soft-failed"] = soft_failed(server, r) & shared
    return facets


def _plain(row: Row) -> Row:
    # SQLite has no booleans.
    return tuple(int(value) if isinstance(value, bool) else value for value in row)


def soft_failed(server: Server, room_id: str) -> set[str]:
    """Returns the events of a room that a server has soft-failed."""
    sql = (
        "SELECT event_id FROM event_json WHERE room_id = ?"
        " AND internal_metadata LIKE '%\"soft_failed\":true%'"
    )
    return {event_id for (event_id,) in server.database.query(sql, room_id)}


def extremities(server: Server, room_id: str) -> set[str]:
    """Returns a server's forward extremities of a room."""
    sql = "SELECT event_id FROM event_forward_extremities WHERE room_id = ?"
    return {event_id for (event_id,) in server.database.query(sql, room_id)}


def current_state(server: Server, room_id: str) -> State:
    """Returns a server's current state of a room, as its database has it."""
    sql = "SELECT type, state_key, event_id FROM current_state_events WHERE room_id = ?"
    return {(type, key): i for type, key, i in server.database.query(sql, room_id)}


def edges(server: Server, room_id: str) -> dict[str, set[str]]:
    """Returns the events before each event, as far as a server has written them down."""
    sql = (
        "SELECT event_id, prev_event_id FROM event_edges JOIN events USING (event_id)"
        " WHERE events.room_id = ?"
    )
    found: dict[str, set[str]] = {}
    for event_id, prev in server.database.query(sql, room_id):
        found.setdefault(event_id, set()).add(prev)
    return found


def states_after(server: Server, room_id: str) -> dict[str, State]:
    """Returns the stored state of each event: after it, or before it if it is rejected."""
    groups = _StateGroups(server.database, room_id)
    sql = (
        "SELECT event_id, state_group FROM event_to_state_groups JOIN events USING (event_id)"
        " WHERE room_id = ? AND NOT outlier"
    )
    return {i: groups.state(group) for i, group in server.database.query(sql, room_id)}


class _StateGroups:
    """A room's state groups, each of which is a difference to another."""

    def __init__(self, database: Database, room_id: str) -> None:
        self._deltas: dict[int, State] = {}
        self._known: dict[int, State] = {}
        sql = "SELECT state_group, type, state_key, event_id FROM state_groups_state"
        for group, type, key, event_id in database.query(f"{sql} WHERE room_id = ?", room_id):
            self._deltas.setdefault(group, {})[type, key] = event_id
        sql = (
            "SELECT e.state_group, e.prev_state_group FROM state_group_edges AS e"
            " JOIN state_groups AS g ON g.id = e.state_group WHERE g.room_id = ?"
        )
        self._before: dict[int, int] = {
            group: before for group, before in database.query(sql, room_id)
        }

    def state(self, group: int) -> State:
        if group not in self._known:
            before = self._before.get(group)
            base = {} if before is None else self.state(before)
            self._known[group] = {**base, **self._deltas.get(group, {})}
        return self._known[group]


def auth_chains(server: Server, room_id: str) -> dict[str, str]:
    """Compares the chain cover index with the auth events, which it is to sum up.

    State resolution reads nothing else: where it is wrong, servers come to differ.

    Returns:
        What differs, by event; nothing if the index is right.
    """
    query = server.database.query
    parents: dict[str, set[str]] = {}
    for event_id, auth_id in query(
        "SELECT event_id, auth_id FROM event_auth WHERE room_id = ?", room_id
    ):
        parents.setdefault(event_id, set()).add(auth_id)
    place: dict[str, tuple[int, int]] = {
        event_id: (chain, number)
        for event_id, chain, number in query(
            "SELECT event_id, chain_id, sequence_number FROM event_auth_chains"
            " JOIN events USING (event_id) WHERE room_id = ?",
            room_id,
        )
    }
    at = {where: event_id for event_id, where in place.items()}
    chains = {chain for chain, _ in at}
    links: dict[int, list[tuple[int, int, int]]] = {}
    for origin, start, target, end in query(
        "SELECT origin_chain_id, origin_sequence_number, target_chain_id, target_sequence_number"
        " FROM event_auth_chain_links"
    ):
        if origin in chains:
            links.setdefault(origin, []).append((start, target, end))

    found = {}
    for event_id, where in place.items():
        expected = _reached(parents.get(event_id, ()), lambda i: parents.get(i, ()))
        reach: dict[int, int] = {}
        stack = [where]
        while stack:
            chain, number = stack.pop()
            if reach.get(chain, 0) >= number:
                continue
            reach[chain] = number
            stack += [(t, end) for start, t, end in links.get(chain, ()) if start <= number]
        indexed = {
            at[c, n] for c, last in reach.items() for n in range(1, last + 1) if (c, n) in at
        }
        if indexed - {event_id} != expected & place.keys():
            found[event_id] = describe(expected & place.keys(), indexed - {event_id})
    return found


def _reached(starts: Iterable[str], after: Callable[[str], Iterable[str]]) -> set[str]:
    seen = set(starts)
    stack = list(seen)
    while stack:
        new = set(after(stack.pop())) - seen
        seen |= new
        stack += new
    return seen


# What users see.


def api_facets(room: Room, user: Client) -> Facets:
    """Reads what a user sees of a room, as far as it should equal what another sees."""
    r = room.room_id
    shared = shared_events(room)
    depths: dict[str, int] = dict(
        room.a.database.query("SELECT event_id, depth FROM events WHERE room_id = ?", r)
    )
    events = {event["event_id"]: event for event in user.messages(r) if event["event_id"] in shared}
    backwards = [*events]
    forwards = [i for i in _forwards(user, r) if i in shared]
    return {
        "scrollback": set(backwards),
        "order of the scrollback": _by_depth(backwards, depths),
        "order of the scrollback, forwards": _by_depth(forwards, depths),
        "events as shown": {i: _as_shown(event) for i, event in events.items()},
        "state for users": {k: e["event_id"] for k, e in user.state(r).items()},
        "members": user.members(r, membership=None),
        "relations of each event": {
            i: {e["event_id"] for e in user.relations(r, i)} for i in events
        },
        "list of threads": _threads(user, r),
    }


def _forwards(user: Client, room_id: str) -> list[str]:
    """The scrollback from its beginning on.

    Without a token, Synapse begins with what it did not backfill: so this one turns round where
    the way back ends.
    """
    path = "/_matrix/client/v3" + quoted("rooms", room_id, "messages")
    token: str | None = None
    while True:
        page = user.call("GET", path, params=_page("b", token))
        if "end" not in page:
            break
        token = page["end"]
    found: list[str] = []
    while True:
        page = user.call("GET", path, params=_page("f", token))
        found += [event["event_id"] for event in page["chunk"]]
        if "end" not in page:
            return found
        token = page["end"]


def _page(direction: str, token: str | None) -> dict[str, str]:
    params = {"dir": direction, "limit": "100"}
    return params if token is None else {**params, "from": token}


def _by_depth(event_ids: Iterable[str], depths: Mapping[str, int]) -> list[set[str]]:
    """Groups a list so that only that part of its order counts that depth decides."""
    return [set(ids) for _, ids in groupby(event_ids, key=lambda i: depths[i])]


def _as_shown(event: JsonDict) -> JsonDict:
    """An event as a client gets it, without what is each server's own."""
    unsigned = event.get("unsigned", {})
    relations = dict(unsigned.get("m.relations", {}))
    thread = relations.pop("m.thread", None)
    return {
        **{name: event.get(name) for name in ("type", "sender", "state_key", "content", "redacts")},
        "redacted by": unsigned.get("redacted_because", {}).get("event_id"),
        "replaces": unsigned.get("replaces_state"),
        "before": unsigned.get("prev_content"),
        "thread": thread and (thread["count"], thread["latest_event"]["event_id"]),
        "relations": {
            name: value.get("event_id", value) if isinstance(value, dict) else value
            for name, value in relations.items()
        },
    }


def _threads(user: Client, room_id: str) -> list[str]:
    answer = user.call("GET", "/_matrix/client/v1" + quoted("rooms", room_id, "threads"))
    return [event["event_id"] for event in answer["chunk"]]


def search(user: Client, room_id: str, words: str) -> set[str]:
    """Returns all events of a room that the search finds, page after page."""
    found: set[str] = set()
    token = None
    while True:
        criteria = {"search_term": words, "filter": {"rooms": [room_id], "limit": 50}}
        answer = user.call(
            "POST",
            "/_matrix/client/v3/search",
            {"search_categories": {"room_events": criteria}},
            {"next_batch": token} if token else None,
        )["search_categories"]["room_events"]
        found |= {result["result"]["event_id"] for result in answer["results"]}
        token = answer.get("next_batch")
        if not token or not answer["results"]:
            return found


# Whether one server's tables agree with each other.

_ORDERINGS = {
    "current_state_events": "event_id",
    "local_current_membership": "event_id",
    "room_memberships": "event_id",
    "sliding_sync_membership_snapshots": "membership_event_id",
}
"""Tables that repeat an event's stream ordering, and the column that names the event."""

_REFERRING = (
    "event_edges",
    "event_auth",
    "state_events",
    "room_memberships",
    "event_json",
    "event_forward_extremities",
    "current_state_events",
)


def inconsistencies(server: Server, room_id: str) -> dict[str, list[Row]]:
    """Finds rows of a room that contradict each other, by what they contradict each other in."""
    query = server.database.query
    checks: dict[str, tuple[str, ...]] = {
        f"orderings in {table}": (
            f"SELECT t.{column}, t.event_stream_ordering, e.stream_ordering FROM {table} AS t"
            f" JOIN events AS e ON e.event_id = t.{column} WHERE t.room_id = ?"
            " AND (t.event_stream_ordering IS NULL"
            " OR t.event_stream_ordering <> e.stream_ordering)",
            room_id,
        )
        for table, column in _ORDERINGS.items()
    }
    checks |= {
        f"unknown events in {table}": (
            f"SELECT t.event_id FROM {table} AS t LEFT JOIN events AS e ON e.event_id = t.event_id"
            " WHERE t.room_id = ? AND e.event_id IS NULL",
            room_id,
        )
        for table in _REFERRING
    }
    checks |= {
        "events without JSON": (
            "SELECT e.event_id FROM events AS e"
            " LEFT JOIN event_json AS j ON j.event_id = e.event_id"
            " WHERE e.room_id = ? AND j.event_id IS NULL",
            room_id,
        ),
        "backward extremities that are here": (
            "SELECT b.event_id FROM event_backward_extremities AS b"
            " JOIN events AS e ON e.event_id = b.event_id WHERE b.room_id = ? AND NOT e.outlier",
            room_id,
        ),
        "followed extremities": (
            "SELECT f.event_id FROM event_forward_extremities AS f"
            " JOIN event_edges AS n ON n.prev_event_id = f.event_id"
            " JOIN events AS e ON e.event_id = n.event_id"
            " LEFT JOIN rejections AS r ON r.event_id = n.event_id"
            " WHERE f.room_id = ? AND NOT e.outlier AND r.event_id IS NULL AND n.event_id NOT IN"
            " (SELECT event_id FROM event_json WHERE room_id = ?"
            "  AND internal_metadata LIKE '%\"soft_failed\":true%')",
            room_id,
            room_id,
        ),
        "bad extremities": (
            "SELECT f.event_id FROM event_forward_extremities AS f"
            " LEFT JOIN events AS e ON e.event_id = f.event_id"
            " LEFT JOIN rejections AS r ON r.event_id = f.event_id"
            " WHERE f.room_id = ? AND (e.event_id IS NULL OR e.outlier OR r.event_id IS NOT NULL)",
            room_id,
        ),
        "memberships in the current state": (
            "SELECT c.state_key, c.membership, m.membership FROM current_state_events AS c"
            " LEFT JOIN room_memberships AS m ON m.event_id = c.event_id"
            " WHERE c.room_id = ? AND c.type = 'm.room.member'"
            " AND (c.membership IS NULL OR m.membership IS NULL OR c.membership <> m.membership)",
            room_id,
        ),
        "sliding sync's newest event": (
            "SELECT s.event_stream_ordering, m.newest FROM sliding_sync_joined_rooms AS s,"
            " (SELECT MAX(stream_ordering) AS newest FROM events LEFT JOIN rejections AS r"
            "  USING (event_id) WHERE room_id = ? AND NOT outlier AND r.event_id IS NULL) AS m"
            " WHERE s.room_id = ? AND s.event_stream_ordering < m.newest",
            room_id,
            room_id,
        ),
        "sliding sync's bump stamp": (
            "SELECT s.bump_stamp FROM sliding_sync_joined_rooms AS s"
            " LEFT JOIN events AS e ON e.stream_ordering = s.bump_stamp AND e.room_id = s.room_id"
            " WHERE s.room_id = ? AND s.bump_stamp IS NOT NULL AND e.event_id IS NULL",
            room_id,
        ),
        "threads' newest events": (
            "SELECT t.thread_id FROM threads AS t"
            " JOIN events AS e ON e.event_id = t.latest_event_id"
            " WHERE t.room_id = ? AND (t.stream_ordering <> e.stream_ordering"
            " OR t.topological_ordering <> e.topological_ordering)",
            room_id,
        ),
    }
    if isinstance(server.database, PostgresDatabase):
        checks["orderings in event_search"] = (
            "SELECT s.event_id FROM event_search AS s JOIN events AS e USING (event_id)"
            " WHERE s.room_id = ? AND s.stream_ordering <> e.stream_ordering",
            room_id,
        )
    rows = {name: query(*check) for name, check in checks.items()}
    return {name: found for name, found in rows.items() if found}


# Whether anything was written.

_OWN_LIFE = frozenset(
    {
        # What any request of a client leaves.
        "access_tokens",
        "devices",
        "monthly_active_users",
        "user_daily_visits",
        "user_ips",
        # What the watch notes, and what Synapse does by itself, on their own time.
        "rejection_repair_alerts",
        "rejection_repair_seen",
        "background_updates",
        "destinations",
        "device_lists_stream",
        "event_search_segdir",
        "event_search_segments",
        "event_search_stat",
        "federation_stream_position",
        "local_media_repository_url_cache",
        "scheduled_tasks",
        "server_keys_json",
        "server_signature_keys",
        "room_stats_current",
        "room_stats_state",
        "stats_incremental_position",
        "stream_positions",
        "user_directory",
        "user_directory_search",
        "user_stats_current",
        "worker_locks",
        "worker_read_write_locks",
        "worker_read_write_locks_mode",
    }
)


def digests(server: Server) -> dict[str, str]:
    """Sums up every table of a server, but for those that change all by themselves."""
    return {name: _digest(server.database, name) for name in _tables(server.database)}


def _tables(database: Database) -> Iterator[str]:
    sql = "SELECT name FROM sqlite_master WHERE type = 'table'"
    if isinstance(database, PostgresDatabase):
        sql = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    for (name,) in database.query(sql):
        # The temporary ones are those of Synapse's background updates.
        if name not in _OWN_LIFE and not name.startswith("_temp_"):
            yield name


def _digest(database: Database, table: str) -> str:
    rows = sorted(
        repr(tuple(bytes(v) if isinstance(v, memoryview) else v for v in row))
        for row in database.query(f"SELECT * FROM {table}")
    )
    return f"{len(rows)} rows, {hashlib.sha256(chr(10).join(rows).encode()).hexdigest()}"
