from __future__ import annotations

import pytest

from synapse_rejection_repair.domain.scope import Scope
from tests.domain.drawing import draw

# Two roots; C follows both, D nobody, F comes behind X without citing anything of it.
ROOM = draw(
    """
    X*@10[power_levels]
    A*@11 <- X cites X
    Y*@12[member @u:a] <- A
    B*@13 <- Y cites Y
    C*@14 <- B cites X, Y
    D!@15 <- C
    E*@16 <- D cites A
    F*@17 <- X
    """
)
ALL = "XAYBCDEF"


def select(scope: Scope, repaired: str = "", after: int | None = None) -> str:
    chosen = scope.select(ROOM, repaired=frozenset(repaired), after=after)
    assert chosen <= ROOM.keys()
    return "".join(event_id for event_id in ROOM if event_id in chosen)


def test_everything_unless_told_otherwise() -> None:
    assert select(Scope()) == ALL
    assert Scope().select({}) == set()


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        pytest.param("X", "XACE", id="a root, and what cites it through others"),
        pytest.param("Y", "YBC", id="the other root"),
        pytest.param("XY", "XAYBCE", id="both"),
        pytest.param("A", "AE", id="a part of a cascade, without its root"),
        pytest.param("D", "D", id="damaged, not rejected"),
        pytest.param("F", "F", id="nobody cites it"),
        pytest.param("Z", "", id="no suspect"),
        pytest.param("ZB", "B", id="a suspect and no suspect"),
    ],
)
def test_event_ids(names: str, chosen: str) -> None:
    assert select(Scope(event_ids=frozenset(names))) == chosen


@pytest.mark.parametrize(
    ("since", "until", "chosen"),
    [
        (None, 12_000, "XAY"),
        (12_000, None, "YBCDEF"),
        (12_000, 12_000, "Y"),
        (12_001, 12_999, ""),
        (11_999, 13_001, "YB"),
        (0, 0, ""),
        (18_000, None, ""),
    ],
)
def test_times_are_inclusive(since: int | None, until: int | None, chosen: str) -> None:
    assert select(Scope(since_ts=since, until_ts=until)) == chosen


def test_times_narrow_what_event_ids_name() -> None:
    # The cascade is followed through what is too early and left out.
    names = frozenset("X")
    assert select(Scope(names, since_ts=14_000)) == "CE"
    assert select(Scope(names, until_ts=11_000)) == "XA"
    assert select(Scope(names, since_ts=12_000, until_ts=15_000)) == "C"


def test_force_alone_chooses_nothing() -> None:
    assert select(Scope(frozenset("F"), force=frozenset("X"))) == "F"


@pytest.mark.parametrize(
    ("repaired", "after", "chosen"),
    [
        pytest.param("P", None, "F", id="nobody cites or follows it"),
        # X is repaired, so A was caught by the race, whenever it was stored.
        pytest.param("X", None, "ACEF", id="cites"),
        # F and the like of it follow X without citing it: theirs only if they came later.
        pytest.param("Y", 13, "BCF", id="cites, though it was there before"),
        pytest.param("C", 14, "DF", id="follows, and came later"),
        pytest.param("C", 15, "F", id="follows, and was there already"),
        pytest.param("B", 13, "CF", id="follows, and came next"),
    ],
)
def test_late_arrivals(repaired: str, after: int | None, chosen: str) -> None:
    gone = {i: node for i, node in ROOM.items() if i not in repaired}
    found = Scope(frozenset("F")).select(gone, repaired=frozenset(repaired), after=after)
    assert "".join(event_id for event_id in ROOM if event_id in found) == chosen


def test_late_arrivals_bring_their_cascade() -> None:
    room = draw("A*@20 <- X cites X; B*@21 cites A; C*@22 cites B; Z*@23")
    scope = Scope(frozenset("X"))
    assert scope.select(room, repaired=frozenset("X"), after=19) == {"A", "B", "C"}
    assert scope.select(room, repaired=frozenset(), after=19) == set()


def test_late_arrivals_do_not_widen_a_scope_of_all() -> None:
    assert select(Scope(until_ts=10_000), repaired="X", after=5) == "X"
