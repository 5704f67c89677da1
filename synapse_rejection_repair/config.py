"""The module's configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Set
from typing import Any

import attr

DEFAULT_PATH = "/_synapse/rejection_repair"

# Letters, digits and what never needs quoting: a client may quote anything else or not, and
# only one of the two would be found. A segment of dots is taken away by clients and proxies.
_PATH = re.compile(r"(/(?!\.+(/|$))[A-Za-z0-9._~-]+)+")

MAX_AFTER = 500
"""More of a room's rejections could be forgotten before they are counted."""

MOST_AUTO_REPAIRED = 10_000
"""How many events the configuration may let a repair touch that nobody has asked for."""

MOST_PEERS = 20
"""How many other servers the configuration may allow to be asked about one event."""

_ROOM_ID = re.compile(r"![^\s\0]{1,254}")
_USER_ID = re.compile(r"@[^\s\0:]*:[^\s\0]{1,253}")

# What a `database` section of Synapse's may have. The last two are nothing to a reader.
_DATABASE_KEYS = frozenset({"name", "args", "txn_limit", "allow_unsafe_locale"})

# Read in Synapse 1.151.0 and 1.163.2.
_TAKEN = (
    "/_matrix",
    *(f"/_synapse/{s}" for s in ("admin", "client", "mas", "metrics", "replication")),
)


@attr.s(auto_exc=True, auto_attribs=True)
class BadConfig(Exception):
    """A field of the configuration is wrong.

    Attributes:
        field: the field.
        reason: what is wrong with it.
    """

    field: str
    reason: str

    def __str__(self) -> str:
        return f"'{self.field}' {self.reason}"


@attr.s(frozen=True, slots=True, auto_attribs=True)
class SourceConfig:
    """An old homeserver's database, from which history may be imported.

    Attributes:
        engine: `sqlite3` or `psycopg2`.
        args: what the engine is told to connect. Never shown: a password may be in it.
        immutable: nothing writes the SQLite file any more, so it is read without locks
            and without files beside it.
        media_store_path: the folder where the old homeserver kept its media.
    """

    engine: str
    args: Mapping[str, Any] = attr.ib(repr=False)
    immutable: bool = False
    media_store_path: str | None = attr.ib(default=None, repr=False)


@attr.s(frozen=True, slots=True, auto_attribs=True)
class AlertConfig:
    """When and where admins are told that a cascade of rejections begins.

    Attributes:
        after: how many rejected events behind a root make an alert.
        room: the room that messages go to; `None` for none.
        sender: the local user who sends them; `None` for whoever may, of those in the room.
    """

    after: int = 3
    room: str | None = None
    sender: str | None = None


@attr.s(frozen=True, slots=True, auto_attribs=True)
class AutoRepairConfig:
    """What is repaired without an admin.

    Attributes:
        max_events: how many events such a repair may touch.
    """

    max_events: int


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Config:
    """What `homeserver.yaml` says.

    Attributes:
        path: the path below which the endpoints are mounted.
        sources: old homeservers' databases, by the names that requests call them by.
        alert: when and where admins are told that a cascade of rejections begins.
        max_peers: how many other servers may be asked about one event; 0 for none.
        auto_repair: what is repaired without an admin; `None` for nothing.
    """

    path: str = DEFAULT_PATH
    sources: Mapping[str, SourceConfig] = attr.Factory(dict)
    alert: AlertConfig = attr.Factory(AlertConfig)
    max_peers: int = 5
    auto_repair: AutoRepairConfig | None = None


def parse_config(config: object) -> Config:
    """Reads the `config` section of the module's entry in `homeserver.yaml`.

    Args:
        config: the section as YAML has it; nothing is all defaults.

    Raises:
        BadConfig: a field is unknown or wrong.
    """
    if config is None:
        return Config()
    if not isinstance(config, Mapping):
        raise BadConfig("config", "must be a mapping")
    known = {field.name for field in attr.fields(Config)}
    for field in config:
        if field not in known:
            raise BadConfig(str(field), f"is not known; known are: {', '.join(sorted(known))}")
    max_peers = _whole("max_peers", config.get("max_peers", 5), 0, MOST_PEERS)
    return Config(
        path=_path(config.get("path", DEFAULT_PATH)),
        sources=_sources(config.get("sources", {})),
        alert=_alert(config.get("alert", {})),
        max_peers=max_peers,
        auto_repair=_auto_repair(config.get("auto_repair"), max_peers),
    )


def _whole(field: str, value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadConfig(field, f"must be a whole number from {least} to {most}")
    return value


def _auto_repair(value: Any, max_peers: int) -> AutoRepairConfig | None:
    if value is None:
        return None
    section = _mapping("auto_repair", value, {"max_events"})
    most = _whole("auto_repair.max_events", section.get("max_events"), 1, MOST_AUTO_REPAIRED)
    if not max_peers:
        raise BadConfig("max_peers", "must be at least 1 for 'auto_repair', which asks them")
    return AutoRepairConfig(most)


def _alert(value: Any) -> AlertConfig:
    section = _mapping("alert", {} if value is None else value, {"after", "room", "sender"})
    after = _whole("alert.after", section.get("after", 3), 1, MAX_AFTER)
    room, sender = section.get("room"), section.get("sender")
    if room is not None and not (isinstance(room, str) and _ROOM_ID.fullmatch(room)):
        raise BadConfig("alert.room", "must be a room id, such as '!abc:example.org'; no alias")
    if sender is not None and not (isinstance(sender, str) and _USER_ID.fullmatch(sender)):
        raise BadConfig("alert.sender", "must be a user id, such as '@alerts:example.org'")
    if sender is not None and room is None:
        raise BadConfig("alert.room", "must name the room that 'alert.sender' writes into")
    return AlertConfig(after, room, sender)


def _sources(value: Any) -> dict[str, SourceConfig]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BadConfig("sources", "must be a mapping from names to databases")
    return {_source_name(name): _source(name, section) for name, section in value.items()}


def _source_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
        raise BadConfig(
            "sources", "must have names of letters, digits, '.', '_' and '-', at most 64 of them"
        )
    return name


def _source(name: str, section: Any) -> SourceConfig:
    field = f"sources.{name}"
    known = {"database", "immutable", "media_store_path"}
    section = _mapping(field, section, known)
    database = _mapping(f"{field}.database", section.get("database"), _DATABASE_KEYS)
    engine, args = database.get("name"), database.get("args", {})
    if engine not in ("sqlite3", "psycopg2"):
        raise BadConfig(f"{field}.database.name", "must be 'sqlite3' or 'psycopg2'")
    if not isinstance(args, Mapping) or not all(isinstance(key, str) for key in args):
        raise BadConfig(f"{field}.database.args", "must be a mapping")
    path = args.get("database")
    if engine == "sqlite3" and (not isinstance(path, str) or not path or path == ":memory:"):
        raise BadConfig(f"{field}.database.args.database", "must be the path of a file")
    immutable = section.get("immutable", False)
    if not isinstance(immutable, bool):
        raise BadConfig(f"{field}.immutable", "must be true or false")
    if immutable and engine != "sqlite3":
        raise BadConfig(f"{field}.immutable", "is for SQLite files alone")
    media = section.get("media_store_path")
    if media is not None and not (isinstance(media, str) and os.path.isabs(media)):
        raise BadConfig(f"{field}.media_store_path", "must be the absolute path of a folder")
    return SourceConfig(engine, dict(args), immutable, media)


def _mapping(field: str, value: Any, known: Set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadConfig(field, "must be a mapping")
    for key in value:
        if key not in known:
            raise BadConfig(
                f"{field}.{key}", f"is not known; known are: {', '.join(sorted(known))}"
            )
    return value


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise BadConfig("path", "must be a string that begins with '/'")
    path = value.rstrip("/")
    if not path.startswith("/_") or not _PATH.fullmatch(path):
        raise BadConfig("path", "must begin with '/_' and be a plain path, such as " + DEFAULT_PATH)
    for taken in _TAKEN:
        if path == taken or path.startswith(taken + "/"):
            raise BadConfig("path", f"must not lie below {taken}, which Synapse serves itself")
        if taken.startswith(path + "/"):
            raise BadConfig("path", f"must not lie above {taken}, which it would hide")
    return path
