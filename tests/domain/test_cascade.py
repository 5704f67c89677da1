from __future__ import annotations

import time
import tracemalloc
from collections.abc import Mapping

import pytest

from synapse_rejection_repair.domain.cascade import MOST_ROOTS, Cascade, cascades, cited, largest
from synapse_rejection_repair.domain.model import Node
from tests.domain.drawing import draw


def counts(drawing: str) -> dict[str, int]:
    """The size of the cascade behind each root, in the order in which they are given."""
    return counts_of(draw(drawing))


def counts_of(nodes: Mapping[str, Node]) -> dict[str, int]:
    return {root: cascade.count for root, cascade in cascades(nodes).items()}


@pytest.mark.parametrize(
    ("drawing", "expected"),
    [
        pytest.param("", {}, id="nothing"),
        pytest.param("X*", {"X": 0}, id="nobody cites it"),
        pytest.param("X*; A* cites X; B* cites X", {"X": 2}, id="one root"),
        pytest.param("X*; A* cites X; B* cites A; C* cites B", {"X": 3}, id="through others"),
        pytest.param("X*; Y*; A* cites X; B* cites Y", {"X": 1, "Y": 1}, id="two roots"),
        pytest.param("X*; Y*; A* cites X, Y; B* cites Y", {"X": 1, "Y": 2}, id="in two cascades"),
        pytest.param(
            "X*; Y*; Z*; A* cites X, Y; B* cites Z; C* cites A, B",
            {"X": 2, "Y": 2, "Z": 2},
            id="in three, through others",
        ),
        pytest.param("X*; A* cites X, X; B* cites A, X", {"X": 2}, id="counted once"),
        pytest.param("X*; A* <- X; B* <- A", {"X": 0, "A": 0, "B": 0}, id="following is no citing"),
        pytest.param("X* cites P; A* cites X, P", {"X": 1}, id="accepted events are no matter"),
        pytest.param("A*@1 cites X; X*@2", {"X": 1}, id="stored before its root"),
        pytest.param("Y*@5; X*@2", {"X": 0, "Y": 0}, id="the oldest root first"),
        pytest.param("X*~; A*~ cites X; B* cites A", {"X": 2}, id="outliers"),
        pytest.param("X* cites X; A* cites X", {"X": 1}, id="cites itself"),
    ],
)
def test_roots_and_their_cascades(drawing: str, expected: dict[str, int]) -> None:
    found = counts(drawing)
    assert found == expected
    assert list(found) == list(expected)


@pytest.mark.parametrize(
    ("drawing", "expected"),
    [
        pytest.param("A* cites C; B* cites A; C* cites B", {"A": 2}, id="one way"),
        pytest.param("A* cites B; B* cites C; C* cites A", {"A": 2}, id="the other way"),
        pytest.param("A* cites B; B* cites A; C* cites B; D*", {"D": 0, "A": 2}, id="and its tail"),
        pytest.param("T* cites A; A* cites B; B* cites A", {"A": 2}, id="a tail stored before it"),
        pytest.param(
            "X*; A* cites B, X; B* cites A", {"X": 2}, id="a cycle that follows a real root"
        ),
    ],
)
def test_a_claimed_cycle_is_one_cascade_behind_its_oldest_event(
    drawing: str, expected: dict[str, int]
) -> None:
    assert counts(drawing) == expected


def test_what_is_told_of_a_cascade() -> None:
    (cascade,) = cascades(
        draw(
            """
            X*@1 by @alice:a
            A*@9 cites X by @alice:a
            B*@4 cites X by @bob:b:8448
            C*@6 cites A by @carol:b:8448
            D*@12 cites B by @dan:[::1]:80
            """
        )
    ).values()
    # Without the root itself.
    assert cascade == Cascade(4, 4000, 12000, {"a": 1, "b:8448": 2, "[::1]:80": 1})


def test_an_empty_cascade_has_no_times() -> None:
    assert cascades(draw("X*"))["X"] == Cascade(0, None, None, {})


def test_cited() -> None:
    nodes = draw("X*; Y*; A* cites Y, P, X, Y, A")
    assert cited(nodes["A"], nodes) == ["Y", "X"]
    assert cited(nodes["X"], nodes) == []


def test_a_ladder_of_events_that_follow_more_and_more_roots() -> None:
    """Only a hostile server makes one: each event cites the one before and a root of its own."""
    size = 5000
    drawing = ";".join(f"R{n}*@{n}" for n in range(size))
    drawing += f"; E0*@{size} cites R0;"
    drawing += ";".join(f"E{n}*@{size + n} cites E{n - 1}, R{n}" for n in range(1, size))
    nodes = draw(drawing)
    tracemalloc.start()
    try:
        began = time.monotonic()
        found = cascades(nodes)
        seconds, (_, peak) = time.monotonic() - began, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [found[f"R{n}"].count for n in range(size)] == [
        size - n if n < MOST_ROOTS else 0 for n in range(size)
    ]
    # Bounds that only what grows with the square of the size does not keep to.
    assert seconds < 20
    assert peak < 30 * 2**20


def test_many_claimed_cycles_in_a_row() -> None:
    pairs = 3000
    drawing = "A0*@0 cites B0; B0*@1 cites A0;" + ";".join(
        f"A{n}*@{-2 * n} cites B{n}, A{n - 1}; B{n}*@{1 - 2 * n} cites A{n}"
        for n in range(1, pairs)
    )
    nodes = draw(drawing)
    began = time.monotonic()
    assert counts_of(nodes) == {"A0": 2 * pairs - 1}
    assert time.monotonic() - began < 10


def test_many_events_behind_many_roots() -> None:
    roots = [f"R{n}" for n in range(50)]
    drawing = ";".join([*(f"{r}*" for r in roots), f"E0* cites {','.join(roots)}"])
    drawing += ";" + ";".join(f"E{n}* cites E{n - 1}" for n in range(1, 2000))
    assert counts(drawing) == dict.fromkeys(roots, 2000)


def test_the_largest_cascades() -> None:
    found = cascades(draw("X*; A* cites X; Y*; Z*; B* cites Z; C* cites Z; U*"))
    assert list(largest(found, 5)) == ["X", "Y", "Z", "U"]
    assert list(largest(found, 3)) == ["X", "Y", "Z"]
    assert list(largest(found, 2)) == ["X", "Z"]
    assert list(largest(found, 1)) == ["Z"]
