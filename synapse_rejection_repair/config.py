"""The module's configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attr

DEFAULT_PATH = "/_synapse/rejection_repair"

# Letters, digits and what never needs quoting: a client may quote anything else or not, and
# only one of the two would be found. A segment of dots is taken away by clients and proxies.
_PATH = re.compile(r"(/(?!\.+(/|$))[A-Za-z0-9._~-]+)+")

# Read in Synapse 1.151.0 and 1.163.2.
_TAKEN = (
    "/_matrix",
    *(f"/_synapse/{s}" for s in ("admin", "client", "mas", "metrics", "replication")),
)


@attr.s(frozen=True, auto_exc=True, auto_attribs=True)
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
class Config:
    """What `homeserver.yaml` says.

    Attributes:
        path: the path below which the endpoints are mounted.
    """

    path: str = DEFAULT_PATH


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
    return Config(path=_path(config.get("path", DEFAULT_PATH)))


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
