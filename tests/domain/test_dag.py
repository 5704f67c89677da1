from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from synapse_rejection_repair.domain.dag import components, descendants, in_order
from synapse_rejection_repair.domain.model import Node
from tests.domain.drawing import draw


def order(nodes: Mapping[str, Node]) -> str:
    return " ".join(node.event_id for node in in_order(nodes))


@pytest.mark.parametrize(
    ("drawing", "expected"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param("A; B <- A; C <- B", "A B C", id="chain"),
        pytest.param("C@3 <- B; B@2 <- A; A@1", "A B C", id="chain drawn backwards"),
        pytest.param("C@1 <- B; B@2 <- A; A@3", "A B C", id="chain stored backwards"),
        pytest.param("A; B@9 <- A; C@4 <- A; D@6 <- A", "A C D B", id="fork: as stored"),
        pytest.param("A; B@5 <- A; C@2 <- A; D@3 <- B, C", "A C B D", id="merge waits for all"),
        pytest.param("A@5; B@4; C@3; D@1 <- A, B, C", "C B A D", id="several beginnings"),
        pytest.param("B@1 <- gone; A@2; C@3 <- B, gone", "B A C", id="gaps hold nobody up"),
        pytest.param("B@1 <- gone cites X; X@2", "X B", id="what is cited comes first"),
        pytest.param("A@1 <- B cites B; B@2 <- C, C; C@3", "C B A", id="edges drawn twice"),
        pytest.param("A@1 <- A cites A; B@2 <- A", "A B", id="its own parent"),
        pytest.param("B@-2; A@-5; C@1 <- B", "A B C", id="negative orderings"),
        pytest.param("B@1; A@1", "A B", id="a tie of orderings: by id"),
    ],
)
def test_in_order(drawing: str, expected: str) -> None:
    assert order(draw(drawing)) == expected


def test_a_sibling_stored_early_does_not_overtake_its_own_parents() -> None:
    # E is ready only after D; then its early ordering puts it before B, which is ready all along.
    assert order(draw("A@1; B@9 <- A; D@5 <- A; E@2 <- D")) == "A D E B"


@pytest.mark.parametrize(
    ("drawing", "expected"),
    [
        pytest.param("B@1 <- C; C@2 <- B; A@3", "A B C", id="two"),
        pytest.param("D@4 <- C; C@1 <- B; B@2 <- D; A@9", "A C B D", id="three"),
        pytest.param("B@1 <- C; C@2 cites B; A@3", "A B C", id="of both kinds of edges"),
        pytest.param("B@3 <- C; C@2 <- B; D@1 <- C; A@9", "A D C B", id="with a follower"),
    ],
)
def test_claimed_cycles_come_last(drawing: str, expected: str) -> None:
    assert order(draw(drawing)) == expected


def test_in_order_copes_with_depth() -> None:
    # Recursion would end at 1,000; a query of a list in each step would take minutes.
    count = 50_000
    chain = draw("E0;" + ";".join(f"E{n}@{count - n} <- E{n - 1}" for n in range(1, count)))
    began = time.monotonic()
    found = [node.event_id for node in in_order(chain)]
    assert found == [f"E{n}" for n in range(count)]
    assert time.monotonic() - began < 10


def test_in_order_leaves_its_argument_alone() -> None:
    nodes = draw("A; B <- A; C <- B, A")
    before = dict(nodes)
    assert len(list(in_order(nodes))) == len(list(in_order(nodes))) == 3
    assert nodes == before


EDGES = {"A": ["B", "C"], "B": ["D"], "C": ["D"], "D": ["E"], "X": ["Y"], "Y": ["X"]}


@pytest.mark.parametrize(
    ("starts", "reached"),
    [
        ("", ""),
        ("A", "BCDE"),
        ("CB", "DE"),
        ("AD", "BCE"),
        ("E", ""),
        ("Z", ""),
        ("X", "Y"),
        ("XY", ""),
        ("CX", "DEY"),
    ],
)
def test_descendants(starts: str, reached: str) -> None:
    assert descendants(set(starts), EDGES) == {*starts, *reached}


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        pytest.param({"A": "", "B": "A", "C": "B"}, "A B C", id="chain"),
        pytest.param({"C": "B", "B": "A", "A": ""}, "A B C", id="chain, the last first"),
        pytest.param({"A": "B", "B": "A", "C": "B"}, "AB C", id="a cycle and a follower"),
        pytest.param({"C": "B", "A": "B", "B": "AX", "X": ""}, "X AB C", id="behind another"),
        pytest.param({"A": "B", "B": "C", "C": "A", "D": "E", "E": "DA"}, "ABC DE", id="two"),
        pytest.param({"A": "BC", "B": "A", "C": "A"}, "ABC", id="two cycles with one event"),
        pytest.param({"A": "A"}, "A", id="its own parent"),
    ],
)
def test_components(parents: dict[str, str], expected: str) -> None:
    found = components(parents, parents.__getitem__)
    assert ["".join(sorted(component)) for component in found] == expected.split()


def test_components_cope_with_depth() -> None:
    count = 50_000
    ring = {str(n): [str((n + 1) % count)] for n in range(count)}
    (component,) = components(ring, ring.__getitem__)
    assert len(component) == count
