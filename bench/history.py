"""A long history in an old server's database, signed by the old server, made in seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from synapse.events import make_event_from_dict

from tests.harness.client import Client
from tests.harness.database import SqliteDatabase
from tests.harness.hostile import HostilePeer
from tests.harness.server import Server

_TOPIC_EVERY = 100
_FORK_EVERY = 250
_WORDS = ("alpha", "bravo", "charlie", "delta", "écho", "foxtrott", "golf", "hôtel", "india")


def write_history(server: Server, room_id: str, senders: list[Client], count: int) -> None:
    """Writes events into a stopped server's database as if it had taken them long ago.

    Messages for the most part, with threads, edits, reactions, a redaction in a hundred, a
    new topic in a hundred, and a few forks.

    Args:
        server: the server, stopped, on SQLite.
        room_id: its room.
        senders: users of it who are in the room.
        count: how many events.
    """
    assert isinstance(server.database, SqliteDatabase)
    peer = HostilePeer(server, room_id)
    state = peer.current_state()
    query = server.database.query
    stream = server.database.value("SELECT MAX(stream_ordering) FROM events")
    group = server.database.value(
        "SELECT g.state_group FROM event_to_state_groups AS g"
        " INNER JOIN event_forward_extremities AS f ON f.event_id = g.event_id"
        " WHERE f.room_id = ?",
        room_id,
    )
    next_group = server.database.value("SELECT MAX(id) FROM state_groups") + 1
    auth = {
        client.user_id: [
            state[key]
            for key in (
                ("m.room.create", ""),
                ("m.room.power_levels", ""),
                ("m.room.member", client.user_id),
            )
        ]
        for client in senders
    }
    tips = [
        i
        for (i,) in query(
            "SELECT event_id FROM event_forward_extremities WHERE room_id = ?", room_id
        )
    ]
    depth = peer._depth(tips)
    previous = tips
    now = 1_600_000_000_000
    with server.database.connect(write=True) as connection:
        written: list[str] = []
        for number in range(count):
            forked = number % _FORK_EVERY == _FORK_EVERY - 1
            topic = number % _TOPIC_EVERY == _TOPIC_EVERY - 1 and not forked
            sender = senders[number % len(senders)].user_id
            content: dict[str, Any]
            type_, content = (
                ("m.room.topic", {"topic": f"Topic {number}"})
                if topic
                else (_content(number, written))
            )
            event: dict[str, Any] = {
                "room_id": room_id,
                "type": type_,
                "sender": sender,
                "content": content,
                "origin_server_ts": now + number * 1000,
                "prev_events": tips[:1] if forked else tips,
                "auth_events": auth[sender],
                "depth": depth if forked else depth + 1,
            }
            if topic:
                event["state_key"] = ""
                event["auth_events"] = auth[senders[0].user_id]
                event["sender"] = senders[0].user_id
            if type_ == "m.room.redaction":
                event["content"] = {"redacts": written[-5]}
                event["sender"] = senders[0].user_id
                event["auth_events"] = auth[senders[0].user_id]
            if forked:
                event["prev_events"] = previous
            previous = event["prev_events"]
            peer.sign(event)
            event_id = make_event_from_dict(dict(event), peer.version).event_id
            stream += 1
            if topic:
                group, next_group = _topic_group(connection, room_id, event_id, group, next_group)
            _write(connection, event, event_id, stream, group)
            tips = [*tips, event_id] if forked else [event_id]
            depth = event["depth"] if not forked else depth
            written = [*written[-50:], event_id]
        connection.execute("DELETE FROM event_forward_extremities WHERE room_id = ?", (room_id,))
        connection.executemany(
            "INSERT INTO event_forward_extremities (event_id, room_id) VALUES (?, ?)",
            [(tip, room_id) for tip in tips],
        )
        connection.executemany(
            "INSERT INTO stream_ordering_to_exterm (stream_ordering, room_id, event_id)"
            " VALUES (?, ?, ?)",
            [(stream, room_id, tip) for tip in tips],
        )


def _content(number: int, written: list[str]) -> tuple[str, dict[str, Any]]:
    kind = number % 20
    body = " ".join(_words(number))
    message = {"msgtype": "m.text", "body": f"{body} ünïcödé {number} 🎉"}
    if len(written) < 10:
        return "m.room.message", message
    if kind == 3:
        return "m.room.message", {
            **message,
            "m.relates_to": {"rel_type": "m.thread", "event_id": written[-2]},
        }
    if kind == 9:
        return "m.room.message", {
            **message,
            "m.new_content": message,
            "m.relates_to": {"rel_type": "m.replace", "event_id": written[-2]},
        }
    if kind in (11, 17):
        relation = {"rel_type": "m.annotation", "event_id": written[-3], "key": "👍"}
        return "m.reaction", {"m.relates_to": relation}
    if number % 100 == 55:
        return "m.room.redaction", {}
    return "m.room.message", message


def _words(number: int) -> Iterator[str]:
    for step in range(3 + number % 12):
        yield _WORDS[(number * 7 + step * 5) % len(_WORDS)]


def _topic_group(
    connection: Any, room_id: str, event_id: str, group: int, new: int
) -> tuple[int, int]:
    connection.execute("INSERT INTO state_groups VALUES (?, ?, ?)", (new, room_id, event_id))
    connection.execute("INSERT INTO state_group_edges VALUES (?, ?)", (new, group))
    connection.execute(
        "INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)"
        " VALUES (?, ?, 'm.room.topic', '', ?)",
        (new, room_id, event_id),
    )
    connection.execute(
        "INSERT INTO state_events (event_id, room_id, type, state_key)"
        " VALUES (?, ?, 'm.room.topic', '')",
        (event_id, room_id),
    )
    return new, new + 1


def _write(connection: Any, event: dict[str, Any], event_id: str, stream: int, group: int) -> None:
    room_id = event["room_id"]
    connection.execute(
        "INSERT INTO events (instance_name, stream_ordering, topological_ordering, depth,"
        " event_id, room_id, type, processed, outlier, origin_server_ts, received_ts, sender,"
        " contains_url, state_key) VALUES ('master', ?, ?, ?, ?, ?, ?, 1, 0, ?, ?, ?, 0, ?)",
        (
            stream,
            event["depth"],
            event["depth"],
            event_id,
            room_id,
            event["type"],
            event["origin_server_ts"],
            # Lately: Synapse refuses joins on what it has not touched for a month.
            int(time.time() * 1000),
            event["sender"],
            event.get("state_key"),
        ),
    )
    connection.execute(
        "INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)"
        " VALUES (?, ?, '{}', ?, 3)",
        (event_id, room_id, json.dumps(event)),
    )
    connection.executemany(
        "INSERT INTO event_edges (event_id, prev_event_id) VALUES (?, ?)",
        [(event_id, prev) for prev in event["prev_events"]],
    )
    connection.execute(
        "INSERT INTO event_to_state_groups (event_id, state_group) VALUES (?, ?)",
        (event_id, group),
    )
