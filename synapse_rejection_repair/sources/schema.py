"""Whether a database is one of Synapse's that can be read."""

from __future__ import annotations

import attr

from synapse_rejection_repair.sources.connection import Connection

OLDEST_SCHEMA = 72
"""The oldest version of Synapse's schema that is read: Synapse 1.67, of 2022."""

_NEEDED = {
    "events": (
        "event_id",
        "room_id",
        "outlier",
        "topological_ordering",
        "stream_ordering",
    ),
    "event_json": ("event_id", "json", "internal_metadata"),
    "rejections": ("event_id",),
    "event_to_state_groups": ("event_id", "state_group"),
    "state_groups_state": ("state_group", "type", "state_key", "event_id"),
    "state_group_edges": ("state_group", "prev_state_group"),
    "rooms": ("room_id",),
}
"""What is read. All of it is in every schema since the oldest one."""


@attr.s(auto_exc=True, auto_attribs=True)
class SchemaRefused(Exception):
    """The database is none of Synapse's, or too old."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Schema:
    """What of the things that not every version has is there.

    Attributes:
        room_versions: `rooms` says which version a room has.
        keys: signing keys are cached in a table that is known.
        erased: users who had themselves erased are in a table that is known.
    """

    room_versions: bool
    keys: bool
    erased: bool


def examine(connection: Connection) -> Schema:
    """Looks at a database's schema.

    Raises:
        SchemaRefused: it cannot be read.
        ConnectionFailed: the connection failed.
    """
    if "version" not in connection.columns("schema_version"):
        raise SchemaRefused("it is no database of Synapse's")
    rows = connection.query("SELECT version FROM schema_version")
    version = rows[0][0] if rows else None
    if not isinstance(version, int):
        raise SchemaRefused("it is no database of Synapse's that was ever used")
    if version < OLDEST_SCHEMA:
        raise SchemaRefused(
            f"its schema has version {version}, and {OLDEST_SCHEMA} is the oldest that can be"
            " read: start a newer Synapse on it once"
        )
    for table, needed in _NEEDED.items():
        missing = sorted(set(needed) - connection.columns(table))
        if missing:
            raise SchemaRefused(f"its table '{table}' has no column {', '.join(missing)}")
    return Schema(
        room_versions="room_version" in connection.columns("rooms"),
        keys={"server_name", "key_id", "verify_key"} <= connection.columns("server_signature_keys"),
        erased="user_id" in connection.columns("erased_users"),
    )
