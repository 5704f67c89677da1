"""What the database says of the difference between two states, against states in memory."""

from __future__ import annotations

import sqlite3
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from synapse_rejection_repair.adapter.state_difference import DIFFERENCE, difference

ENTRIES = [(type_, key, value) for type_ in "ab" for key in "xy" for value in "12"]
changes = st.lists(st.sampled_from(ENTRIES), max_size=3, unique_by=lambda e: e[:2])


class Transaction:
    """What `difference` asks of Synapse's transactions."""

    database_engine = None

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: Any = ()

    def execute(self, sql: str, args: tuple[int, int]) -> None:
        assert sql == DIFFERENCE
        self._rows = self._connection.execute(sql, args)

    def __iter__(self) -> Any:
        return iter(self._rows)


@given(
    # For each group: how far back the one is that it changes, if any, and the change.
    st.lists(st.tuples(st.integers(0, 3), changes), min_size=1, max_size=8),
    st.integers(0, 7),
    st.integers(0, 7),
)
def test_difference(groups: list[tuple[int, list[Any]]], one: int, other: int) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE state_group_edges (state_group, prev_state_group)")
    connection.execute("CREATE TABLE state_groups_state (state_group, type, state_key, event_id)")
    states: list[dict[tuple[str, str], str]] = []
    for group, (back, change) in enumerate(groups):
        before = states[group - back] if 0 < back <= group else {}
        if 0 < back <= group:
            edge = (group, group - back)
            connection.execute("INSERT INTO state_group_edges VALUES (?, ?)", edge)
        rows = [(group, *entry) for entry in change]
        connection.executemany("INSERT INTO state_groups_state VALUES (?, ?, ?, ?)", rows)
        states.append({**before, **{(type_, key): value for type_, key, value in change}})

    one, other = one % len(groups), other % len(groups)
    more, less = difference(Transaction(connection), one, other)  # type: ignore[arg-type]
    expected_more = states[one].items() - states[other].items()
    expected_less = states[other].items() - states[one].items()
    if len(expected_more) + len(expected_less) < 4:
        assert more.items() == expected_more
        assert less.items() == expected_less
    else:
        assert more.items() <= expected_more and less.items() <= expected_less
        assert len(more) + len(less) == 4
