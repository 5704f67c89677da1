"""What is said of events that the tables of a database cannot hold."""

from __future__ import annotations

from typing import Any

import pytest
from synapse.api.room_versions import RoomVersions
from synapse.events import make_event_from_dict

from synapse_rejection_repair.adapter.storable import unstorable

RETENTION = {"type": "m.room.retention", "state_key": ""}
REDACTION = {"type": "m.room.redaction"}
HUGE = 2**63


def said(fields: dict[str, Any], *, postgres: bool) -> str | None:
    event = {
        "room_id": "!room:example.org",
        "type": "m.room.message",
        "sender": "@alice:example.org",
        "origin_server_ts": 1,
        "depth": 1,
        "prev_events": ["$prev"],
        "auth_events": ["$auth"],
        "content": {},
        "hashes": {"sha256": ""},
        "signatures": {},
        **fields,
    }
    # Its numbers may be of any size.
    return unstorable(make_event_from_dict(event, RoomVersions.V5), postgres=postgres)


def labels(value: Any) -> dict[str, Any]:
    return {"content": {"org.matrix.labels": value}}


@pytest.mark.parametrize("postgres", [False, True])
@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({}, None),
        (labels(0), None),
        (labels("abc"), None),
        (labels(["a", "b"]), None),
        (labels(1), "labels"),
        (labels("aa"), "labels"),
        (labels(["a", "a"]), "labels"),
        (labels([None]), "labels"),
        (labels([{}]), "labels"),
        (labels([HUGE]), "labels"),
        (labels([1, "1"]), "labels"),
        ({**REDACTION, "redacts": "$it"}, None),
        ({**REDACTION, "redacts": ["$it"]}, "redacts"),
        ({"redacts": ["$it"]}, None),
        ({**RETENTION, "content": {"max_lifetime": HUGE - 1}}, None),
        ({**RETENTION, "content": {"max_lifetime": HUGE}}, "number"),
        ({**RETENTION, "content": {"max_lifetime": HUGE, "min_lifetime": "1"}}, None),
        ({"type": "m.room.retention", "content": {"max_lifetime": HUGE}}, None),
    ],
)
def test_on_both(fields: dict[str, Any], part: str | None, postgres: bool) -> None:
    found = said(fields, postgres=postgres)
    assert found is None if part is None else part in (found or "")


@pytest.mark.parametrize(
    "fields",
    [
        labels([1, 2]),
        labels(["a\0"]),
        labels(["a" * 3000]),
        {**REDACTION, "redacts": "$" + "a" * 3000},
        {"prev_events": ["$" + "a" * 3000]},
        {"type": "a\0"},
        {"content": {"m.relates_to": {"rel_type": "a", "event_id": "a\0"}}},
        {"content": {"m.relates_to": {"rel_type": "a" * 1300, "event_id": "b" * 1301}}},
    ],
)
def test_on_postgres(fields: dict[str, Any]) -> None:
    assert said(fields, postgres=False) is None
    assert said(fields, postgres=True) is not None
