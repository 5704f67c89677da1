from __future__ import annotations

from typing import Any

import attr
import pytest

from synapse_rejection_repair.domain.chunks import chunks
from synapse_rejection_repair.domain.delivery import Deliver, delivered_as_history
from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.model import (
    ACCEPTED,
    Check,
    Node,
    Outcome,
    StateChange,
    StateIds,
    Verdict,
)
from synapse_rejection_repair.domain.plan import Plan
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.domain.steps import Action, Step
from tests.domain.drawing import draw

REFUSED = Verdict(Outcome.REJECT, Check.AUTH_EVENTS, "No")
TOPIC, NAME = ("m.room.topic", ""), ("m.room.name", "")


def facts(**changes: Any) -> RoomFacts:
    return attr.evolve(
        RoomFacts(
            room_id="!r:a",
            room_version="10",
            suspects=draw("X*@10[power_levels]; A*@11 <- X cites X; Y*@12; B*@13 cites Y; D!@14"),
            stale=draw("S@15"),
            unindexed=draw("U@16"),
            current_state={TOPIC: "t", NAME: "n"},
            extremities=frozenset("EG"),
            bad_extremities=frozenset("G"),
            unfinished={},
            defects={},
        ),
        **changes,
    )


def fingerprint(room: RoomFacts, scope: Scope | None = None) -> str:
    return room.fingerprint(scope or Scope())


def without(nodes: Any, *names: str) -> dict[str, Node]:
    return {i: node for i, node in nodes.items() if i not in names}


def test_a_fingerprint_is_short_and_repeats() -> None:
    assert fingerprint(facts()) == fingerprint(facts())
    assert len(fingerprint(facts())) == 64


def test_a_fingerprint_does_not_depend_on_the_order_in_which_facts_were_read() -> None:
    one = facts()
    backwards = {
        name: dict(reversed(list(getattr(one, name).items())))
        for name in ("suspects", "stale", "unindexed", "current_state")
    }
    assert fingerprint(facts(**backwards)) == fingerprint(one)
    many = frozenset(f"${n}" for n in range(50))
    same = frozenset(sorted(many, reverse=True))
    assert fingerprint(one, Scope(many, force=many)) == fingerprint(one, Scope(same, force=same))


NODES = facts().suspects


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"room_id": "!s:a"}, id="another room"),
        pytest.param({"suspects": {**NODES, **draw("Z*@21")}}, id="a further rejection"),
        pytest.param({"suspects": {**NODES, **draw("Z!@21")}}, id="a further damage"),
        pytest.param({"suspects": without(NODES, "B")}, id="a rejection less"),
        pytest.param({"suspects": {**NODES, **draw("B!@13 cites Y")}}, id="un-rejected by hand"),
        pytest.param({"suspects": {**NODES, **draw("D*@14")}}, id="rejected again"),
        pytest.param({"stale": {}}, id="nothing stale"),
        pytest.param({"stale": draw("S@15; R@9")}, id="more that is stale"),
        pytest.param({"unindexed": {}}, id="nothing unindexed"),
        pytest.param(
            {"unfinished": draw("W@17[topic]")},
            id="left by a job that was cut short",
        ),
        pytest.param({"unindexed": draw("V@16")}, id="something else unindexed"),
        pytest.param({"bad_extremities": frozenset()}, id="no bad extremities"),
        pytest.param({"current_state": {TOPIC: "t"}}, id="an entry of the state less"),
        pytest.param({"current_state": {TOPIC: "t2", NAME: "n"}}, id="another topic"),
        pytest.param({"current_state": {TOPIC: "n", NAME: "t"}}, id="entries swapped"),
    ],
)
def test_a_fingerprint_tells_what_decides_the_plan(changes: dict[str, Any]) -> None:
    assert fingerprint(facts(**changes)) != fingerprint(facts())


@pytest.mark.parametrize(
    "changes",
    [
        # What an ordinary message changes: it must not make a plan void.
        pytest.param({"extremities": frozenset("HG")}, id="the tip moved on"),
    ],
)
def test_a_fingerprint_outlives_messages(changes: dict[str, Any]) -> None:
    assert fingerprint(facts(**changes)) == fingerprint(facts())


@pytest.mark.parametrize(
    "scope",
    [
        pytest.param(Scope(frozenset("X")), id="event_ids"),
        pytest.param(Scope(since_ts=1), id="since_ts"),
        pytest.param(Scope(until_ts=99_000), id="until_ts"),
        pytest.param(Scope(force=frozenset("X")), id="force"),
    ],
)
def test_a_fingerprint_tells_what_is_chosen(scope: Scope) -> None:
    assert fingerprint(facts(), scope) != fingerprint(facts())


def test_since_and_until_are_not_mistaken_for_each_other() -> None:
    assert fingerprint(facts(), Scope(since_ts=5)) != fingerprint(facts(), Scope(until_ts=5))
    ids = frozenset("X")
    assert fingerprint(facts(), Scope(ids)) != fingerprint(facts(), Scope(force=ids))


def test_a_rejection_beyond_the_scope_does_not_void_a_plan() -> None:
    scope = Scope(frozenset("X"))
    more = facts(suspects={**NODES, **draw("Z*@21 cites Y")})
    assert fingerprint(more, scope) == fingerprint(facts(), scope)
    more = facts(suspects={**NODES, **draw("Z*@21 cites A")})
    assert fingerprint(more, scope) != fingerprint(facts(), scope)


def step(drawing: str, action: Action, *, backfill: bool = False) -> Step:
    (node,) = draw(drawing).values()
    return Step(node, action, REFUSED if action is Action.REJECT else ACCEPTED, backfill)


def plan(*steps: Step, **changes: Any) -> Plan:
    return attr.evolve(Plan("!r:a", "f", steps, (), frozenset("E")), **changes)


RECEIVE, REJECT = step("X*", Action.RECEIVE), step("Y*", Action.REJECT)
RESTATE, INDEX = step("S", Action.RESTATE), step("U", Action.INDEX)
MARK = step("D!", Action.REJECT)


def test_what_a_plan_counts() -> None:
    found = plan(RECEIVE, REJECT, RESTATE, INDEX, MARK, RECEIVE)
    assert (found.accepted, found.rejected) == (2, 2)
    assert list(found.verdicts) == [RECEIVE, REJECT, MARK, RECEIVE]


@pytest.mark.parametrize(
    ("found", "idle"),
    [
        pytest.param(plan(), True, id="nothing"),
        pytest.param(plan(REJECT, REJECT), True, id="what is rejected stays so"),
        pytest.param(plan(REJECT, RECEIVE), False, id="receive"),
        pytest.param(plan(REJECT, RESTATE), False, id="restate"),
        pytest.param(plan(REJECT, INDEX), False, id="index"),
        pytest.param(plan(REJECT, MARK), False, id="un-rejected by hand, and to be rejected again"),
        pytest.param(
            plan(REJECT, state_changes=(StateChange("t", "", "a", "b"),)), False, id="state"
        ),
        pytest.param(plan(REJECT, mend_extremities=True), False, id="extremities"),
    ],
)
def test_idle(found: Plan, idle: bool) -> None:
    assert found.idle is idle


@pytest.mark.parametrize(
    ("received", "final", "extremities", "live", "history"),
    [
        pytest.param("M*; N*", {}, "N", "", "M", id="messages, all but the tip"),
        pytest.param("M*; N*", {}, "", "", "M N", id="behind B's own tip"),
        pytest.param("T*[topic]", {TOPIC: "T"}, "", "", "", id="the state that holds"),
        pytest.param(
            "T*[topic]; U*[topic]", {TOPIC: "U"}, "U", "", "T", id="superseded by a sibling"
        ),
        # B's clients know K, which came later: the older topic must not undo it.
        pytest.param("T*[topic]", {TOPIC: "K"}, "", "T", "T", id="superseded by what they know"),
        pytest.param("T*[topic]", {TOPIC: "K"}, "T", "T", "T", id="superseded, though the tip"),
        pytest.param("T*[topic]; U*[topic]", {TOPIC: "K"}, "", "T U", "T U", id="both superseded"),
        pytest.param("T*[topic]", {}, "", "", "T", id="an entry that goes away"),
        pytest.param(
            "T*[topic]; N*[name]", {TOPIC: "K", NAME: "N"}, "", "T", "T", id="each by itself"
        ),
    ],
)
def test_what_is_delivered_as_history(
    received: str, final: StateIds, extremities: str, live: str, history: str
) -> None:
    nodes = draw(received).values()
    tips = frozenset(extremities.split())
    assert delivered_as_history(nodes, Deliver.LIVE, final, tips) == set(live.split())
    assert delivered_as_history(nodes, Deliver.HISTORY, final, tips) == set(history.split())


def test_chunks_are_alike_short_and_in_order() -> None:
    most = 20
    receive = [step(f"X{n}*", Action.RECEIVE) for n in range(2 * most + 10)]
    backfill = [step(f"B{n}*", Action.RECEIVE, backfill=True) for n in range(3)]
    steps = [*receive, *backfill, REJECT, MARK, RESTATE, INDEX, *receive[:1], REJECT]
    found = list(chunks(steps, most))
    assert [s for chunk in found for s in chunk] == steps
    assert [len(chunk) for chunk in found] == [most, most, 10, 3, 1, 1, 1, 1, 1, 1]
    assert all(len({(s.action, s.backfill, s.kind.idle) for s in chunk}) == 1 for chunk in found)


def test_no_steps_no_chunks() -> None:
    assert list(chunks([], 20)) == []
