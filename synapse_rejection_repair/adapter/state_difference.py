"""How the states of two state groups differ, compared by the database."""

from __future__ import annotations

from synapse.storage.database import LoggingTransaction
from synapse.storage.engines import PostgresEngine

from synapse_rejection_repair.domain.model import StateIds, StateKey

_MOST = 4
"""How many entries are given at most: one state event sets one, and replaces one."""

_CHAIN = """{name}_chain(state_group, hops) AS (
        SELECT CAST(? AS BIGINT), 0
        UNION ALL
        SELECT e.prev_state_group, c.hops + 1 FROM {name}_chain AS c
        INNER JOIN state_group_edges AS e ON e.state_group = c.state_group
    ),
    {name} AS (
        SELECT type, state_key, event_id FROM (
            SELECT s.type, s.state_key, s.event_id,
                ROW_NUMBER() OVER (PARTITION BY s.type, s.state_key ORDER BY c.hops) AS age
            FROM {name}_chain AS c
            INNER JOIN state_groups_state AS s ON s.state_group = c.state_group
        ) AS entries WHERE age = 1
    )"""

DIFFERENCE = f"""
    WITH RECURSIVE {_CHAIN.format(name="one")}, {_CHAIN.format(name="other")}
    SELECT 1, type, state_key, event_id
    FROM (SELECT * FROM one EXCEPT SELECT * FROM other) AS more
    UNION ALL
    SELECT 0, type, state_key, event_id
    FROM (SELECT * FROM other EXCEPT SELECT * FROM one) AS less
    LIMIT {_MOST}"""
"""The entries of one state group that another has not, then the other way round."""


def difference(txn: LoggingTransaction, one: int, other: int) -> tuple[StateIds, StateIds]:
    """Some of the entries that one of two states has and the other has not.

    Nothing of the states is read into memory: those of a room with many members are large, and
    would drive all else out of Synapse's cache of states.

    Args:
        txn: the transaction.
        one: a state group.
        other: another one.

    Returns:
        Entries of the first that the second has not, and of the second that the first has not:
        both empty where the states are equal, and all of them where they are few.
    """
    if isinstance(txn.database_engine, PostgresEngine):
        # As in Synapse's own query for the state of a group (`StateGroupBackgroundUpdateStore.
        # _get_state_groups_from_groups_txn`, read in 1.151.0 and 1.163.2).
        txn.execute("SET LOCAL enable_seqscan=off")
    txn.execute(DIFFERENCE, (one, other))
    found: tuple[dict[StateKey, str], dict[StateKey, str]] = ({}, {})
    for has, type_, state_key, event_id in txn:
        found[0 if has else 1][type_, state_key] = event_id
    return found
