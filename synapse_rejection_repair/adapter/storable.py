"""What the tables of accepted events cannot hold, though no rule forbids it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from synapse.api.constants import EventContentFields, EventTypes, RelationTypes
from synapse.events import EventBase, relation_from_event

_INDEXED_BYTES = 2600
"""What surely fits into one row of an index of PostgreSQL's, whatever it is.

A third of a page less what the row needs for itself: 2,704 bytes. It compresses what is
longer, and may then store it, but whether that succeeds only it can tell.
"""

_INTEGERS = range(-(2**63), 2**63)


def unstorable(event: EventBase, *, postgres: bool) -> str | None:
    """Why a database cannot hold an event as accepted, in a sentence; `None` if it can.

    Mirrors what `PersistEventsStore._persist_events_txn` and, for accepted events alone,
    `_update_metadata_tables_txn` write without a look at it (read in Synapse 1.151.0 and
    1.163.2), and what raises there: a rejected event that is stored tells nothing of that.

    Args:
        event: an event that is valid for its room's version.
        postgres: the database is PostgreSQL, not SQLite.
    """
    try:
        numbers = [int(event.origin_server_ts)]
    except (TypeError, ValueError):
        return "The database cannot store its time: that is no number"
    if event.type == EventTypes.Retention and event.is_state():
        lifetimes = [event.content.get(name, 0) for name in ("min_lifetime", "max_lifetime")]
        # Synapse itself leaves others out.
        if all(type(lifetime) is int for lifetime in lifetimes):
            numbers += lifetimes
    if any(number not in _INTEGERS for number in numbers):
        return "The database cannot store a number as large as it holds"

    labels = event.content.get(EventContentFields.LABELS) or ()
    try:
        texts = [_text(label, postgres) for label in labels]
    except TypeError:
        return "The database cannot store its labels: they are no list"
    if None in texts or len(set(texts)) < len(texts):
        return "The database cannot store its labels: they are not texts that all differ"
    redacts = _redacts(event)
    if redacts is not None and _text(redacts, postgres) is None:
        return "The database cannot store what it redacts: that is no event's id"
    if not postgres:
        return None

    for row in _rows(event, [text for text in texts if text is not None]):
        text = "".join(row)
        if "\0" in text:
            return "PostgreSQL cannot store NUL"
        if len(text.encode()) > _INDEXED_BYTES:
            return "PostgreSQL cannot index a text as long as it holds"
    return None


def _redacts(event: EventBase) -> Any:
    """What an event redacts, unchecked; `None` if it is no redaction of anything."""
    return event.redacts if event.type == EventTypes.Redaction else None


def _text(value: object, postgres: bool) -> str | None:
    """What a column of texts holds once a value is stored in it; `None` if it refuses it."""
    if isinstance(value, str):
        return value
    # SQLite makes texts of numbers.
    storable = not postgres and isinstance(value, int) and value in _INTEGERS
    return str(int(value)) if storable and isinstance(value, int) else None


def _rows(event: EventBase, labels: list[str]) -> Iterator[tuple[str, ...]]:
    """What Synapse stores as text, by the index row that holds it.

    But for what it escapes, or drops NUL in, and does not index.
    """
    yield event.room_id, event.type, event.get_state_key() or ""
    yield (event.sender,)
    for cited in (*event.prev_event_ids(), *event.auth_event_ids()):
        yield event.event_id, cited
    redacts = _redacts(event)
    if redacts is not None:
        yield (redacts,)
    relation = relation_from_event(event)
    if relation is not None:
        yield relation.parent_id, relation.rel_type, relation.aggregation_key or ""
        if relation.rel_type == RelationTypes.THREAD:
            yield event.room_id, relation.parent_id
    for label in labels:
        yield event.room_id, event.event_id, label
