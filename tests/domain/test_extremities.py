from __future__ import annotations

import pytest

from synapse_rejection_repair.domain.extremities import (
    MovingExtremities,
    accepted_behind,
    forward_extremities,
)
from tests.domain.drawing import draw


@pytest.mark.parametrize(
    ("stored", "bad", "received", "followed", "expected"),
    [
        pytest.param("P", "", "", "", "P", id="nothing received"),
        pytest.param("P", "", "X* <- P", "", "X", id="the tip moves on"),
        pytest.param("P", "", "X* <- P; A* <- X", "", "A", id="over a chain"),
        pytest.param("P", "", "X* <- P; A* <- X; B* <- X", "", "A B", id="a fork"),
        pytest.param("K", "", "X* <- P; A* <- X", "", "A K", id="beside B's own"),
        pytest.param("K", "", "X* <- P; A* <- X; M* <- A, K", "", "M", id="a merge"),
        pytest.param("K", "", "X* <- P; A* <- X", "X A", "K", id="what B's own follows already"),
        pytest.param("P", "P", "", "", "", id="a bad one goes, even the last"),
        pytest.param("P K", "P", "A* <- Q", "", "A K", id="a bad one goes, others stay"),
        # Rejected so far and among the extremities, as a room mended by hand has it.
        pytest.param("X", "X", "X* <- P", "", "X", id="a bad one that is received"),
        pytest.param("X", "X", "X* <- P; A* <- X", "", "A", id="a bad one that is followed"),
        pytest.param("P K", "", "", "P", "K", id="followed all along"),
        pytest.param("P", "", "A*@9 <- X; X*@8 <- P", "", "A", id="in whatever order"),
        pytest.param("A", "", "A* <- P", "", "A", id="stored anew"),
    ],
)
def test_forward_extremities(
    stored: str, bad: str, received: str, followed: str, expected: str
) -> None:
    found = forward_extremities(
        stored.split(), bad.split(), iter(draw(received).values()), followed.split()
    )
    assert found == set(expected.split())


def test_extremities_move_with_each_accepted_event() -> None:
    events = draw("X <- P; A <- X; M <- A, K; L <- P")
    moving = MovingExtremities({"P", "K"}, followed={"L"})
    seen = []
    for event in events.values():
        moving.accept(event)
        seen.append(" ".join(sorted(moving.now)))
    # What an accepted event in the database follows already is none.
    assert seen == ["K X", "A K", "M", "M"]


@pytest.mark.parametrize(
    ("starts", "suspects", "expected"),
    [
        pytest.param("X", "X* <- P", "P", id="one back"),
        pytest.param("A", "X* <- P; A* <- X, Q", "P Q", id="behind all that is rejected"),
        pytest.param("A B", "X* <- P; A* <- X; B* <- X", "P", id="from two"),
        pytest.param("G", "X* <- P", "G", id="one that is not known"),
        pytest.param("X", "X*", "", id="nothing behind"),
    ],
)
def test_what_is_accepted_behind(starts: str, suspects: str, expected: str) -> None:
    assert accepted_behind(starts.split(), draw(suspects)) == set(expected.split())
