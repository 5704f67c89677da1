"""What is kept in columns is what was put in: against plain dicts and lists."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_rejection_repair.domain.dag import Frontier
from synapse_rejection_repair.domain.listing import Page, RejectionFilter
from synapse_rejection_repair.domain.model import ACCEPTED, Node, Outcome, Verdict
from synapse_rejection_repair.domain.nodes import NodeTable, Union
from synapse_rejection_repair.domain.rejected import RejectedRow, RejectedTable, RoomCount
from synapse_rejection_repair.domain.sorting import sorted_in_pieces, sorted_numbers
from synapse_rejection_repair.domain.steps import Action, Kind, Step, Steps, as_steps
from tests.domain.drawing import draw

DRAWN = draw(
    """
    C[create]
    X*[topic] <- C, Z cites C
    A*~ <- X cites X, C by @bob:b
    B! <- A, A
    M[member @u:a] <- B, M cites M
    D! <- M
    """
)
DRAWN["M"] = attr.evolve(DRAWN["M"], soft_failed=True)


def test_a_table_of_nodes_is_a_mapping_of_them() -> None:
    table = NodeTable(DRAWN.values())
    assert dict(table) == DRAWN
    assert table.first_stored() == 1
    assert [table.id_at(row) for row in range(len(table))] == list(table) == list(DRAWN)
    assert "Z" not in table, "it is only referred to"
    with pytest.raises(KeyError):
        table["Z"]
    with pytest.raises(KeyError):
        table["nobody"]


def test_what_a_table_has_already_stays_as_it_is() -> None:
    table = NodeTable(DRAWN.values())
    table.add(draw("X <- M")["X"])
    assert dict(table) == DRAWN


def test_a_table_knows_who_follows_whom() -> None:
    followers = NodeTable(DRAWN.values()).followers()
    found = {event_id: sorted(set(followers(event_id))) for event_id in (*DRAWN, "Z", "nobody")}
    assert found == {
        "C": ["X"],
        "X": ["A"],
        "A": ["B"],
        "B": ["M"],
        "M": ["D", "M"],
        "D": [],
        "Z": ["X"],
    } | {"nobody": []}


def test_of_several_mappings_the_first_counts() -> None:
    other = draw("X <- M; Y <- X")
    union = Union(NodeTable(DRAWN.values()), other)
    assert dict(union) == {**other, **DRAWN}
    assert len(union) == len(DRAWN) + 1
    assert "nobody" not in union
    with pytest.raises(KeyError):
        union["nobody"]


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 4))
def test_a_frontier_goes_everywhere_once(numbers: list[int], size: int) -> None:
    edges = dict(enumerate(numbers))
    frontier = Frontier(lambda i: [str(edges[int(i)])] if int(i) in edges else [])
    frontier.add(["0", "3"])
    expected: set[str] = set()
    stack = ["0", "3"]
    while stack:
        event_id = stack.pop()
        if event_id not in expected:
            expected.add(event_id)
            stack += [str(edges[int(event_id)])] if int(event_id) in edges else []
    found: list[str] = []
    while taken := frontier.take(size):
        assert len(taken) <= size
        found += taken
        frontier.add(taken)
    assert sorted(found) == sorted(expected)


def test_a_frontier_does_not_ask_for_what_was_looked_up() -> None:
    edges = {"A": ["B"], "B": ["C"], "C": ["D"]}
    frontier = Frontier(lambda i: edges.get(i, []))
    frontier.add(["A"], looked_up={"A", "C"})
    assert sorted(frontier.take(9)) == ["B", "D"]


STEPS = [
    Step(DRAWN["X"], Action.RECEIVE, ACCEPTED),
    Step(DRAWN["A"], Action.REJECT, Verdict(Outcome.REJECT, None, "no")),
    Step(DRAWN["B"], Action.REJECT, Verdict(Outcome.REJECT, None, "neither")),
    Step(DRAWN["C"], Action.RECEIVE, ACCEPTED, backfill=True),
    Step(DRAWN["M"], Action.RESTATE, ACCEPTED),
    Step(DRAWN["D"], Action.REJECT, Verdict(Outcome.UNKNOWN)),
]

KINDS: dict[str, Callable[[Any], bool]] = {
    "judges": lambda s: s.action in (Action.RECEIVE, Action.REJECT),
    "stores": lambda s: (
        s.action is Action.RECEIVE or (s.node.damaged and s.verdict.outcome is Outcome.REJECT)
    ),
    "idle": lambda s: (
        s.action is Action.REJECT and not (s.node.damaged and s.verdict.outcome is Outcome.REJECT)
    ),
    "backfill": lambda s: s.backfill,
    "outlier": lambda s: s.node.outlier,
    "soft_failed": lambda s: s.node.soft_failed,
}


def test_steps_are_a_sequence_of_them() -> None:
    steps = as_steps(STEPS)
    assert as_steps(steps) is steps
    assert list(steps) == STEPS
    assert (steps[0], steps[-1], steps[1:3]) == (STEPS[0], STEPS[-1], STEPS[1:3])
    assert steps.event_ids == [s.node.event_id for s in STEPS]
    assert steps == as_steps(list(STEPS))
    for other in (STEPS[:-1], STEPS[::-1], []):
        assert steps != as_steps(other)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_a_kind(kind: str) -> None:
    steps = as_steps(STEPS)

    def wanted(found: Kind) -> bool:
        return bool(getattr(found, kind))

    expected = [s for s in STEPS if KINDS[kind](s)]
    assert list(steps.some(wanted)) == expected
    assert steps.number_of(wanted) == len(expected)
    assert steps.any(wanted) is bool(expected)
    nodes = steps.nodes(wanted)
    assert list(nodes) == list(nodes) == [s.node for s in expected]


def test_steps_that_become_history() -> None:
    steps = Steps(DRAWN)
    steps.add(DRAWN["X"], Action.RECEIVE, ACCEPTED)
    steps.add(DRAWN["A"], Action.RECEIVE, ACCEPTED)
    steps.backfill({"A", "nobody"})
    assert [(s.node.event_id, s.backfill) for s in steps] == [("X", False), ("A", True)]


def test_steps_decided_otherwise() -> None:
    steps = as_steps(STEPS)
    found = steps.decided({"X": None, "C": (Action.RESTATE, ACCEPTED), "nobody": None})
    expected = [*STEPS[1:3], attr.evolve(STEPS[3], action=Action.RESTATE), *STEPS[4:]]
    assert list(found) == expected
    assert list(steps) == STEPS, "those are others"


@pytest.mark.parametrize("size", [0, 1, 1999, 2000, 2001, 9000, 16_000, 33_000, 70_001])
def test_sorting_in_pieces(size: int) -> None:
    many = random.Random(size).choices(range(size + 1), k=size)
    assert sorted_in_pieces(iter(many)) == sorted(many)


@pytest.mark.parametrize("size", [0, 2001, 70_001, 300_000])
def test_sorting_numbers(size: int) -> None:
    many = random.Random(size).choices(range(-size, size + 1), k=size)
    assert sorted_numbers(iter(many)) == sorted(many)


COLUMNS = ("event_id", "room_id", "type", "sender", "origin_server_ts", "depth", "reason")
few = st.sampled_from
ROWS = st.lists(
    st.tuples(
        st.text("abc", min_size=1, max_size=4),
        few(["!r:a", "!s:a"]),
        few(["t", "u"]),
        few(["@a:a", "@b:b"]),
        st.integers(0, 5) | few([-(2**63), -1, 2**63 - 1]),
        st.integers(-2, 2),
        few(["auth_error", "x"]),
    ),
    unique_by=lambda row: row[0],
    max_size=20,
)


@given(
    ROWS,
    st.builds(
        RejectionFilter,
        st.none() | st.integers(0, 5),
        st.none() | st.integers(0, 5),
        few([None, "t", "other"]),
        few([None, "@a:a"]),
        few([None, "x"]),
    ),
    st.builds(
        Page,
        st.integers(0, 10),
        st.integers(1, 10),
        few([c for c in COLUMNS if c != "room_id"]),
        st.booleans(),
    ),
)
def test_a_page_of_rejected_events(
    rows: list[RejectedRow], wanted: RejectionFilter, page: Page
) -> None:
    table = RejectedTable()
    table.add(rows)
    place = COLUMNS.index(page.order_by)
    expected = sorted(
        (
            row
            for row in rows
            if row[1] == "!r:a"
            and wanted.type in (None, row[2])
            and wanted.sender in (None, row[3])
            and wanted.reason in (None, row[6])
            and (wanted.since_ts is None or row[4] >= wanted.since_ts)
            and (wanted.until_ts is None or row[4] <= wanted.until_ts)
        ),
        key=lambda row: (row[place], row[0]),
        reverse=page.backwards,
    )
    for _ in range(2):
        found = table.page("!r:a", wanted, page)
        assert found.total == len(expected)
        assert found.rows == [row[0] for row in expected[page.start :][: page.limit]]


REASONS = st.dictionaries(st.text("abc", min_size=1, max_size=2), few(["auth_error", "x"]))


@given(ROWS, REASONS)
def test_the_rooms_of_events_that_are_still_rejected(
    rows: list[RejectedRow], reasons: dict[str, str]
) -> None:
    table = RejectedTable()
    table.add(rows)
    left = [row for row in rows if reasons.get(row[0]) == row[6]]
    found = table.still(reasons)
    assert list(found.event_ids) == [row[0] for row in left]
    assert found.rooms() == {
        room: RoomCount(len(times), min(times), max(times))
        for room in {row[1] for row in left}
        if (times := [row[4] for row in left if row[1] == room])
    }


def test_an_empty_table_has_no_rooms() -> None:
    assert RejectedTable().rooms() == {}
    everything = RejectionFilter()
    assert RejectedTable().page("!r:a", everything, Page(0, 10, "depth")).total == 0


def test_nodes_are_equal_however_they_are_kept() -> None:
    node: Node = NodeTable(DRAWN.values())["A"]
    assert node == DRAWN["A"]
    assert (node.outlier, node.damaged, node.rejected) == (True, False, "auth_error")
