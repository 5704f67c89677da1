"""Which event a state event replaces, as Synapse notes it in the event's `unsigned`.

Synapse notes `replaces_state` as it computes the state before an event
(`StateHandler.calculate_context_info`), and gives other servers the state before it by that
note (`FederationHandler.get_state_ids_for_pdu`, both read in Synapse 1.151.0 and 1.163.2). So
where the state before an event changes, the note does, even if the state after it stays.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from synapse.storage.database import LoggingTransaction, make_in_list_sql_clause

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.journal import journal, originals
from synapse_rejection_repair.adapter.json_object import json_object
from synapse_rejection_repair.domain.batches import batches

REPLACED = "replaced"
"""What the journal calls it when a note is changed; it keeps all of `unsigned` as it was."""

_NOTE = "replaces_state"

_Events = dict[str, dict[str, Any]]
"""The JSON of events by id."""


async def read_replaced(database: Database, event_ids: Collection[str]) -> dict[str, str | None]:
    """The event that each of some events replaces; see `DagReader.replaced`."""

    def read(txn: LoggingTransaction, some: Collection[str]) -> dict[str, str | None]:
        return {i: _noted(event) for i, event in _read(txn, some).items()}

    found: dict[str, str | None] = {}
    for some in batches(event_ids):
        found.update(await database.run("read_replaced", read, some))
    return found


def note_replaced(
    txn: LoggingTransaction, job_id: str, now_ms: int, replaced: Mapping[str, str | None]
) -> bool:
    """Changes the notes of state events where they are others, and journals what they were.

    Args:
        txn: the transaction that also gives the events their states.
        job_id: the job that does it.
        now_ms: the time, in milliseconds.
        replaced: the event that each of the state events replaces, `None` if it replaces none.

    Returns:
        Whether an event was changed, so that no process may go on with what it has cached of it.
    """
    changed = {}
    for event_id, event in _read(txn, replaced).items():
        if _noted(event) != replaced[event_id]:
            unsigned = _unsigned(event)
            unsigned.pop(_NOTE, None)
            note = replaced[event_id]
            changed[event_id] = event, unsigned if note is None else {**unsigned, _NOTE: note}
    return _write(txn, job_id, now_ms, changed)


def put_notes_back(
    txn: LoggingTransaction, repair_id: str, job_id: str, now_ms: int, event_ids: Iterable[str]
) -> None:
    """Puts back what a repair has changed of some events' notes.

    Args:
        txn: the transaction that also puts their states back.
        repair_id: the repair.
        job_id: the job that undoes it.
        now_ms: the time, in milliseconds.
        event_ids: the events.
    """
    were = originals(txn, repair_id, event_ids, REPLACED)
    events = _read(txn, were)
    _write(txn, job_id, now_ms, {i: (event, were[i]) for i, event in events.items()})


def _write(
    txn: LoggingTransaction,
    job_id: str,
    now_ms: int,
    changed: Mapping[str, tuple[dict[str, Any], Any]],
) -> bool:
    """Gives events another `unsigned`, or none."""
    were = [(event_id, event.get("unsigned")) for event_id, (event, _) in changed.items()]
    journal(txn, job_id, REPLACED, now_ms, were)
    rows = []
    for event_id, (event, unsigned) in changed.items():
        if unsigned is None:
            del event["unsigned"]
        else:
            event["unsigned"] = unsigned
        # As Synapse writes it (`synapse.util.json.json_encoder`).
        rows.append((json.dumps(event, separators=(",", ":")), event_id))
    txn.execute_batch("UPDATE event_json SET json = ? WHERE event_id = ?", rows)
    return bool(rows)


def _read(txn: LoggingTransaction, event_ids: Collection[str]) -> _Events:
    found: _Events = {}
    for some in batches(event_ids):
        clause, args = make_in_list_sql_clause(txn.database_engine, "event_id", some)
        txn.execute(f"SELECT event_id, json FROM event_json WHERE {clause}", args)
        found.update((event_id, json_object(stored)) for event_id, stored in txn)
    return {event_id: event for event_id, event in found.items() if event}


def _unsigned(event: Mapping[str, Any]) -> dict[str, Any]:
    unsigned = event.get("unsigned")
    return dict(unsigned) if isinstance(unsigned, dict) else {}


def _noted(event: Mapping[str, Any]) -> str | None:
    noted = _unsigned(event).get(_NOTE)
    return noted if isinstance(noted, str) else None
