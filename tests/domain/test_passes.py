from __future__ import annotations

import pytest

from synapse_rejection_repair.domain.gaps import Gap
from synapse_rejection_repair.domain.model import ACCEPTED, Outcome, Verdict
from synapse_rejection_repair.domain.passes import Passes
from synapse_rejection_repair.domain.plan import Plan
from synapse_rejection_repair.domain.steps import Action, Step
from tests.domain.drawing import draw


def plan(received: int = 0, gaps: str = "", left_rejected: int = 0) -> Plan:
    nodes = draw("; ".join(f"X{n}*" for n in range(received + left_rejected)))
    steps = [
        Step(node, Action.RECEIVE, ACCEPTED)
        if place < received
        else Step(node, Action.REJECT, Verdict(Outcome.REJECT))
        for place, node in enumerate(nodes.values())
    ]
    missing = tuple(Gap(event_id, ("A",)) for event_id in gaps.split())
    return Plan("!r:a", "f", steps, (), frozenset(), gaps=missing)


@pytest.mark.parametrize(
    ("made", "received", "took_ms", "expected"),
    [
        pytest.param(0, 1, 0, False, id="the first lets others write"),
        pytest.param(1, 1, 0, False, id="the second too"),
        pytest.param(2, 1, 0, True, id="not the third"),
        pytest.param(2, 200, 0, True, id="with two chunks to store"),
        pytest.param(2, 201, 0, False, id="but not with more"),
        pytest.param(2, 1, 5000, False, id="nor if the plan takes long"),
        pytest.param(9, 1, 5000, False, id="for long"),
        pytest.param(10, 1, 5000, True, id="but not for ever"),
    ],
)
def test_when_a_pass_makes_the_room_wait(
    made: int, received: int, took_ms: int, expected: bool
) -> None:
    assert Passes(made=made).overtakes(plan(received), took_ms) is expected


def test_what_stays_rejected_is_not_stored() -> None:
    assert Passes(made=2).overtakes(plan(received=1, left_rejected=500), 0)


def test_passes_that_do_nothing_are_in_vain() -> None:
    passes = Passes()
    for expected in (False, False, True):
        passes = passes.after(plan(1), 0)
        assert passes.in_vain is expected
    assert passes.made == 3
    assert not passes.after(plan(2), 1).in_vain


def test_passes_that_do_the_same_again_are_in_vain() -> None:
    passes = Passes().after(plan(1), 1)
    for expected in (False, False, True):
        passes = passes.after(plan(1), 1)
        assert passes.in_vain is expected


def test_a_missing_event_is_asked_for_once() -> None:
    passes = Passes()
    assert [gap.event_id for gap in passes.still_missing(plan(gaps="A B"))] == ["A", "B"]
    passes = passes.asking(passes.still_missing(plan(gaps="A B")))
    assert [gap.event_id for gap in passes.still_missing(plan(gaps="A B C"))] == ["C"]


def test_other_servers_are_not_asked_for_ever() -> None:
    passes = Passes()
    for n in range(10):
        missing = passes.still_missing(plan(gaps=f"A{n}"))
        assert missing
        passes = passes.asking(missing)
    assert passes.still_missing(plan(gaps="Z")) == []
