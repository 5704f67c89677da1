"""What an import notes in the transactions that store its events."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from synapse.storage.database import LoggingTransaction
from synapse.storage.engines import create_engine

from synapse_rejection_repair.adapter.arrival_store import BatchEnd, _Progress
from synapse_rejection_repair.adapter.newest import extend_threads
from synapse_rejection_repair.adapter.tables import JOURNAL, create_tables
from synapse_rejection_repair.domain.imports import (
    ImportJob,
    ImportProgress,
    ImportRequest,
    Skip,
    Skipped,
)
from synapse_rejection_repair.domain.job import Job, Status
from synapse_rejection_repair.domain.source import Position


@pytest.fixture
def txn() -> LoggingTransaction:
    cursor: Any = sqlite3.connect(":memory:").cursor()
    engine = create_engine({"name": "sqlite3"})
    made = LoggingTransaction(
        txn=cursor, name="test", server_name="b", database_engine=engine, after_callbacks=[]
    )
    create_tables(made)
    return made


def commit(txn: LoggingTransaction) -> None:
    assert txn.after_callbacks is not None
    for callback, args, kwargs in txn.after_callbacks:
        callback(*args, **kwargs)
    txn.after_callbacks.clear()


def progress(
    progress: ImportProgress,
    events: Mapping[str, Skipped | None],
    orderings: Mapping[str, int],
    end: BatchEnd | None = None,
) -> _Progress:
    job: ImportJob = Job("job", "!r", Status.ACTIVE, ImportRequest("old"), progress)
    jobs: Any = SimpleNamespace(save_in=lambda txn, job: False)
    arriving: Any = {i: SimpleNamespace(skipped=skipped) for i, skipped in events.items()}
    return _Progress(jobs, job, arriving, orderings, end, now_ms=1)


def test_the_orderings_that_were_used_are_used_up(txn: LoggingTransaction) -> None:
    orderings = {f"${n}": n for n in range(-9, -4)}
    noted = progress(ImportProgress(reserved=((-9, -1),)), dict.fromkeys(orderings), orderings)
    # Stored by somebody else, before it is its turn.
    noted.note(txn, ["$-7"])
    commit(txn)
    assert list(noted.job.progress.reserved) == [(-9, -8), (-6, -1)]
    noted.note(txn, list(orderings))
    commit(txn)
    assert list(noted.job.progress.reserved) == [(-4, -1)]
    assert (noted.job.progress.imported, noted.job.progress.done) == (5, 5)


def test_what_is_skipped_counts_with_what_is_stored_and_once(txn: LoggingTransaction) -> None:
    bad, gone = Skipped("$bad", Skip.STATE_BEFORE), Skipped("$gone", Skip.MISSING_JSON)
    first = progress(ImportProgress(), {"$a": None, "$bad": bad}, {})
    first.note(txn, ["$a", "$bad"])
    # Once more, as the database asks for it.
    cursor: Any = txn.txn
    cursor.connection.rollback()
    first.note(txn, ["$a", "$bad"])
    commit(txn)
    found = first.job.progress
    assert (found.imported, found.done, found.skipped) == (1, 2, {"state_before": 1})
    assert found.cursor is None

    # Killed, it reads that again, and goes on to the end of the batch.
    again = Skipped("$bad", Skip.REJECTED_HERE)
    end = BatchEnd(Position(3, 1), [again, gone], lambda: None)
    rest = progress(found, {"$b": None}, {}, end)
    rest.note(txn, ["$b"])
    commit(txn)
    found = rest.job.progress
    assert (found.imported, found.done) == (2, 4)
    assert found.skipped == {"missing_json": 1, "state_before": 1}
    assert found.cursor == Position(3, 1)
    txn.execute(f"SELECT event_id FROM {JOURNAL} WHERE job_id = 'job' ORDER BY event_id")
    assert txn.fetchall() == [("$bad",), ("$gone",)]


def test_a_thread_ends_with_the_newest_whenever_it_came(txn: LoggingTransaction) -> None:
    txn.execute("CREATE TABLE events (event_id, topological_ordering, stream_ordering)")
    txn.execute("CREATE TABLE event_relations (event_id, relates_to_id, relation_type)")
    txn.execute(
        "CREATE TABLE threads"
        " (room_id, thread_id, latest_event_id, topological_ordering, stream_ordering)"
    )
    replies = {
        "$live": ("$t", 50, 500),
        "$late": ("$t", 80, -5),
        "$later": ("$t", 80, -4),
        "$other": ("$u", 90, -3),
        "$alone": ("$v", 20, -2),
    }
    for reply, (thread, *order) in replies.items():
        txn.execute("INSERT INTO events VALUES (?, ?, ?)", (reply, *order))
        txn.execute("INSERT INTO event_relations VALUES (?, ?, 'm.thread')", (reply, thread))
    txn.execute("INSERT INTO event_relations VALUES ('$edit', '$t', 'm.replace')")
    rows = [
        ("!r", "$t", "$live", 50, 500),
        ("!r", "$u", "$live-too", 90, 600),
        # As an outlier, which had another ordering.
        ("!r", "$v", "$alone", 20, -70),
        ("!elsewhere", "$t", "$live", 50, 500),
    ]
    for row in rows:
        txn.execute("INSERT INTO threads VALUES (?, ?, ?, ?, ?)", row)
    extend_threads(txn, "!r", ["$later", "$late", "$other", "$alone", "$edit", "$message"])
    txn.execute("SELECT * FROM threads")
    assert txn.fetchall() == [
        ("!r", "$t", "$later", 80, -4),
        rows[1],
        ("!r", "$v", "$alone", 20, -2),
        rows[3],
    ]
