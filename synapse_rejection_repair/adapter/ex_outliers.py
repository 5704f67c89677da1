"""What is stored of outliers that were received live, once the state at them is known."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from synapse.events import EventBase
from synapse.storage.database import LoggingTransaction, make_in_list_sql_clause

from synapse_rejection_repair.adapter.journal import journal
from synapse_rejection_repair.adapter.json_object import json_object

_UNSIGNED = "replaces_state"
_NO_LONGER = ("outlier", "out_of_band_membership")


def complete(
    txn: LoggingTransaction,
    job_id: str,
    action: str,
    now_ms: int,
    events: Mapping[str, EventBase],
    event_ids: Collection[str],
) -> None:
    """Lets the JSON of events that were outliers say what they replace, and that they are none.

    Synapse leaves it as it came: `PersistEventsStore._update_outliers_txn` (read in Synapse 1.151.0
    and 1.163.2). So an invite that a user of this server got would replace nothing, and the state
    before it, which other servers are told, would be a wrong one. The rest of `unsigned` stays: a
    user who has not answered an invite is told of the room by what came with it. Caches are
    Synapse's matter, as of all events that it is handed.

    Args:
        txn: the transaction that stores the state at them.
        job_id: the job that does it.
        action: what the job does with them.
        now_ms: the time, in milliseconds.
        events: the events by id, with what they replace.
        event_ids: those of them that were outliers, and keep their rows.
    """
    clause, args = make_in_list_sql_clause(txn.database_engine, "event_id", event_ids)
    txn.execute(f"SELECT * FROM event_json WHERE {clause}", args)
    names = [description[0] for description in txn.description or ()]
    for row in [dict(zip(names, values, strict=True)) for values in txn.fetchall()]:
        event_id = row["event_id"]
        replaced = events[event_id].unsigned.get(_UNSIGNED)
        text, metadata = completed(row["json"], row["internal_metadata"], replaced)
        if (text, metadata) == (row["json"], row["internal_metadata"]):
            continue
        journal(txn, job_id, action, now_ms, [(event_id, {"event_json": [row]})])
        txn.execute(
            "UPDATE event_json SET json = ?, internal_metadata = ? WHERE event_id = ?",
            (text, metadata, event_id),
        )


def completed(text: str, metadata: str, replaced: str | None) -> tuple[str, str]:
    """The JSON and the metadata of an event that was an outlier, as they are of others.

    Args:
        text: its JSON as it is stored.
        metadata: its internal metadata as they are stored.
        replaced: the event in whose place in the state it came, `None` if there was none.
    """
    about, event = json_object(metadata), json_object(text)
    if not about.keys().isdisjoint(_NO_LONGER):
        metadata = _encode({k: v for k, v in about.items() if k not in _NO_LONGER})
    said = event.get("unsigned")
    unsigned = said if isinstance(said, dict) else {}
    if event and replaced is not None and unsigned.get(_UNSIGNED) != replaced:
        text = _encode({**event, "unsigned": {**unsigned, _UNSIGNED: replaced}})
    return text, metadata


def _encode(value: object) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
