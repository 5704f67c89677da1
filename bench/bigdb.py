"""Fills a server's PostgreSQL database with the events of years, by SQL alone.

Nothing parses these events, but all that is looked up by them is there: their JSON, prev events,
auth events, state groups, and of one room the rows of the search.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg2

from tests.harness.database import PostgresDatabase

_TABLES = (
    "events",
    "event_json",
    "event_edges",
    "event_auth",
    "event_to_state_groups",
    "event_search",
)

_REJECTED_ELSEWHERE = 1000
"""How many events of other rooms are rejected."""

# Ids are hashes, so that what is next to each other in a room is not so in an index.
_ID = """
    CREATE FUNCTION pg_temp.event_id(name text) RETURNS text IMMUTABLE LANGUAGE sql AS $$
        SELECT '$' || rtrim(translate(encode(sha256(name::bytea), 'base64'), '+/', '-_'), '=')
    $$"""

# One room has every so-many-th event, the others share the rest evenly.
_FILLER = """
    CREATE UNLOGGED TABLE filler AS
    SELECT *, pg_temp.event_id(room_id || seq) AS event_id,
           CASE WHEN seq = 1 AND large THEN %(tip)s
                ELSE pg_temp.event_id(room_id || seq - 1) END AS prev_id,
           (ARRAY['m.room.message', 'm.room.encrypted', 'm.reaction'])[1 + seq %% 3] AS type,
           CASE WHEN NOT large THEN '@user' || seq %% 17 || ':elsewhere.example'
                WHEN seq %% 2 = 0 THEN %(alice)s ELSE %(bob)s END AS sender
    FROM (
        SELECT n, large,
               CASE WHEN large THEN %(room_id)s
                    ELSE '!room' || (n - before) %% %(others)s || ':elsewhere.example' END
                   AS room_id,
               CASE WHEN large THEN before ELSE 1 + (n - before) / %(others)s END AS seq
        FROM (
            SELECT n, n * %(large)s / %(all)s AS before,
                   n * %(large)s / %(all)s > (n - 1) * %(large)s / %(all)s AS large
            FROM generate_series(1, %(all)s::bigint) AS n
        ) AS numbered
    ) AS placed"""

_INSERTS = (
    """
    INSERT INTO events (event_id, room_id, type, sender, depth, topological_ordering,
        stream_ordering, origin_server_ts, received_ts, processed, outlier, contains_url,
        instance_name)
    SELECT event_id, room_id, type, sender, %(depth)s + seq, %(depth)s + seq, %(position)s + n,
           %(ts)s + n * 10, %(ts)s + n * 10, true, false, false, 'master'
    FROM filler ORDER BY n""",
    """
    INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
    SELECT event_id, room_id, '{}', json_build_object(
        'auth_events', CASE WHEN large THEN %(auth)s::text[] ELSE ARRAY[room_id] END,
        'content', json_build_object('body', 'No. ' || seq, 'msgtype', 'm.text'),
        'depth', %(depth)s + seq, 'hashes', json_build_object('sha256', substr(event_id, 2)),
        'origin_server_ts', %(ts)s + n * 10, 'prev_events', ARRAY[prev_id], 'room_id', room_id,
        'sender', sender, 'signatures', json_build_object(split_part(sender, ':', 2),
            json_build_object('ed25519:a_0001', event_id || event_id)),
        'type', type, 'unsigned', json_build_object('age_ts', n)), 3
    FROM filler ORDER BY n""",
    """
    INSERT INTO event_edges (event_id, prev_event_id, is_state)
    SELECT event_id, prev_id, false FROM filler ORDER BY n""",
    """
    INSERT INTO event_auth (event_id, auth_id, room_id)
    SELECT event_id, auth_id, room_id FROM filler
    CROSS JOIN LATERAL unnest(
        CASE WHEN large THEN %(auth)s::text[] ELSE ARRAY['$power' || room_id] END) AS auth_id
    ORDER BY n""",
    """
    INSERT INTO event_to_state_groups (event_id, state_group)
    SELECT event_id, CASE WHEN large THEN %(group)s ELSE 1000000 + seq / 100 END
    FROM filler ORDER BY n""",
    """
    INSERT INTO event_search (event_id, room_id, sender, key, vector, origin_server_ts,
        stream_ordering)
    SELECT event_id, room_id, sender, 'content.body', to_tsvector('english', 'No. ' || seq),
           %(ts)s + n * 10, %(position)s + n
    FROM filler WHERE large AND type = 'm.room.message' ORDER BY n""",
    """
    INSERT INTO rejections (event_id, reason, last_check)
    SELECT event_id, 'auth_error', '0' FROM filler
    WHERE NOT large AND seq > 1 ORDER BY n DESC LIMIT %(rejected)s""",
    """
    INSERT INTO rooms (room_id, is_public, creator, room_version)
    SELECT DISTINCT room_id, false, '@creator:elsewhere.example', '10'
    FROM filler WHERE NOT large""",
    """
    INSERT INTO room_stats_state (room_id, name)
    SELECT DISTINCT room_id, 'Room ' || room_id FROM filler WHERE NOT large""",
    # The room goes on from here.
    """
    UPDATE event_forward_extremities
    SET event_id = (SELECT event_id FROM filler WHERE large ORDER BY n DESC LIMIT 1)
    WHERE room_id = %(room_id)s""",
)

# All that the server would otherwise do about new events when it starts.
_CAUGHT_UP = (
    "SELECT setval('events_stream_seq', (SELECT MAX(stream_ordering) FROM events))",
    "UPDATE federation_stream_position SET stream_id = (SELECT MAX(stream_ordering) FROM events)"
    " WHERE type = 'events'",
    "UPDATE sliding_sync_joined_rooms"
    " SET event_stream_ordering = (SELECT MAX(stream_ordering) FROM events)"
    " WHERE room_id = %(room_id)s",
)


@dataclass(frozen=True)
class Size:
    """How large the database is to be.

    Attributes:
        events: of all rooms.
        rooms: how many there are.
        room_events: of one of them.
        rejections: how many of those are rejected.
    """

    events: int
    rooms: int
    room_events: int
    rejections: int


def fill(database: PostgresDatabase, room_id: str, senders: tuple[str, str], size: Size) -> None:
    """Writes all the accepted events, and gives other rooms a few rejected ones.

    Args:
        database: That of a server which does not run.
        room_id: The room that gets most; it has one forward extremity.
        senders: Users of two servers, who are in it.
        size: What the database is to have in the end.
    """
    ((tip, depth, group),) = database.query(
        "SELECT f.event_id, e.depth, g.state_group FROM event_forward_extremities AS f"
        " JOIN events AS e USING (event_id) JOIN event_to_state_groups AS g USING (event_id)"
        " WHERE f.room_id = ?",
        room_id,
    )
    auth = database.query(
        "SELECT event_id FROM current_state_events WHERE room_id = ? AND"
        " (type IN ('m.room.create', 'm.room.power_levels') OR state_key = ?)",
        room_id,
        senders[0],
    )
    ((position, ts),) = database.query(
        "SELECT MAX(stream_ordering), MAX(origin_server_ts) FROM events"
    )
    values = {
        "all": size.events - size.rejections,
        "large": size.room_events - size.rejections,
        "others": size.rooms - 1,
        "rejected": min(_REJECTED_ELSEWHERE, size.events // 100),
        "room_id": room_id,
        "alice": senders[0],
        "bob": senders[1],
        "tip": tip,
        "depth": depth,
        "group": group,
        "auth": [event_id for (event_id,) in auth],
        "position": position,
        "ts": ts - 10 * size.events,
    }
    with _connected(database) as cursor, _without_indexes(cursor):
        # What is written here need not be checked against what it refers to.
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(_ID)
        cursor.execute(_FILLER, values)
        for sql in _INSERTS:
            cursor.execute(sql, values)
        cursor.execute("DROP TABLE filler")


def catch_up(database: PostgresDatabase, room_id: str) -> None:
    """Leaves a stopped server nothing to do about events that it has not written itself."""
    with _connected(database) as cursor:
        for sql in _CAUGHT_UP:
            cursor.execute(sql, {"room_id": room_id})
        cursor.execute("VACUUM ANALYZE")


@contextmanager
def _connected(database: PostgresDatabase) -> Iterator[Any]:
    connection = psycopg2.connect(**database.arguments)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET maintenance_work_mem = '1GB'")
            yield cursor
    finally:
        connection.close()


@contextmanager
def _without_indexes(cursor: Any) -> Iterator[None]:
    """Takes the indexes away that no constraint needs, and builds them again afterwards."""
    cursor.execute(
        "SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid) FROM pg_index AS i"
        " WHERE i.indrelid = ANY (%s::regclass[])"
        " AND NOT EXISTS (SELECT 1 FROM pg_constraint AS c WHERE c.conindid = i.indexrelid)",
        (list(_TABLES),),
    )
    indexes = cursor.fetchall()
    for name, _ in indexes:
        cursor.execute(f"DROP INDEX {name}")
    yield
    for _, definition in indexes:
        cursor.execute(definition)
