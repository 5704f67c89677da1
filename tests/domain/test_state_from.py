"""States that are taken from another server, on the in-memory server of `world`."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

import attr
import pytest

from synapse_rejection_repair.domain.borrowed import BorrowedState, borrow
from synapse_rejection_repair.domain.delivery import Deliver
from synapse_rejection_repair.domain.job import Status
from synapse_rejection_repair.domain.model import Check, Node, StateChange, StateIds, StateKey
from synapse_rejection_repair.domain.plan import Plan
from synapse_rejection_repair.domain.repair import RepairRequest
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.errors_peers import StateMoved
from synapse_rejection_repair.ports import Checker
from synapse_rejection_repair.statefrom import KeptStates
from tests.domain.drawing import draw
from tests.domain.test_planner import START, steps
from tests.domain.world import POWER, Killed, World, run

CREATE: StateKey = ("m.room.create", "")
NAME: StateKey = ("m.room.name", "")
RIGHT = {CREATE: "C", POWER: "Q", NAME: "N"}
BEFORE = "N[name] <- P cites P; Q[power_levels] <- N cites P; A <- Q cites Q"
DORA = " by @dora:a"


class Elsewhere:
    """Another server, which has one state before every event that it holds."""

    server = "elsewhere"

    def __init__(self, state: StateIds, holds: Collection[str]) -> None:
        self._state = state
        self._holds = holds
        self.asked: list[str] = []

    @property
    def expected(self) -> Collection[str]:
        return {i for i in self.asked if i in self._holds}

    async def state_before(self, node: Node, ours: StateIds, checker: Checker) -> StateIds | None:
        self.asked.append(node.event_id)
        return self._state if node.event_id in self._holds else None


class Forgetful(World):
    """A server that does not see what its states lack: they follow from each other."""

    def _stale(self) -> set[str]:
        return set()

    def _may(self, node: Node, power_levels: str | None) -> bool:
        # Of dora, messages are state to it as well.
        key = NAME if node.sender == "@dora:a" else node.key
        return super()._may(attr.evolve(node, state_key=key and ""), power_levels)


def forgetful(text: str) -> World:
    """A world that lets dora send state since Q, and has forgotten Q when the rest arrives."""
    world = Forgetful({"Q": ("@alice:a", "@dora:a")}, soft_fails=True)
    drawn = draw(START + BEFORE + ";" + text).values()
    marked = {node.event_id for node in drawn if node.rejected}
    nodes = [attr.evolve(node, rejected=None) for node in drawn]
    world.receive(nodes[:5])
    for group, state in world.groups.items():
        world.groups[group] = {**state, POWER: "P"} if POWER in state else state
    world.current = {**world.current, POWER: "P"}
    return world.receive(nodes[5:], marked)


def planned(world: World, elsewhere: Elsewhere) -> Plan:
    facts = run(world.facts())
    chosen = Scope().select(facts.suspects)
    return run(world.planner.plan(facts, Scope(), Deliver.LIVE, chosen, elsewhere))


@pytest.mark.parametrize(
    ("drawing", "without", "expected"),
    [
        pytest.param("T[topic] <- A cites Q" + DORA, "-T", "+T", id="one event"),
        pytest.param(
            "X[power_levels] <- A cites Q by @dora:a; M <- X cites X; L <- M cites X",
            "-X -M -L",
            "+X +M +L",
            id="a root and its cascade",
        ),
        pytest.param(
            "T[topic] <- A cites Q by @dora:a; K <- T cites Q; L <- K cites Q",
            "-T",
            "+T =K =L",
            id="what was accepted behind it",
        ),
        pytest.param(
            "T[topic] <- A cites Q by @dora:a; U[topic] <- T cites Q by @dora:a",
            "-T -U",
            "+T +U",
            id="what follows it needs no other state",
        ),
        pytest.param(
            "T <- A cites Q by @dora:a; K <- T cites Q", "-T", "+T =K", id="behind a message"
        ),
        pytest.param("T[topic] <- A cites P" + DORA, "-T", "-T", id="wrong by its auth events"),
        pytest.param(
            "T[topic] <- A cites Q by @dora:a; K <- A cites Q",
            "-T",
            "+T",
            id="while the server's own events went on",
        ),
    ],
)
def test_plans(drawing: str, without: str, expected: str) -> None:
    world = forgetful(drawing)
    before = world.snapshot()
    assert steps(world.plan()) == without
    assert steps(planned(world, Elsewhere(RIGHT, "TXU"))) == expected
    assert world.snapshot() == before


def test_what_is_current_here_is_part_of_the_error() -> None:
    world = forgetful("K <- A cites Q; T[topic] <- A cites Q" + DORA)
    (step,) = planned(world, Elsewhere(RIGHT, "T")).steps
    assert step.verdict.accepted and not step.verdict.soft_failed


def test_a_later_repair_of_what_is_before_it() -> None:
    world = forgetful(
        "Z*[join_rules] <- A cites Q; T[topic] <- Z cites Q by @dora:a; K <- T cites Q"
    )
    scope = Scope(event_ids=frozenset({"T"}))
    facts = run(world.facts())
    plan = run(world.planner.plan(facts, scope, Deliver.LIVE, {"T"}, Elsewhere(RIGHT, "T")))
    request = RepairRequest(scope, Deliver.LIVE, state_from="a", borrowed=plan.borrowed)
    assert world.repair_with(request).progress.accepted == 1
    before = world.states()
    assert before["K"][POWER] == "Q" and world.rejected == {"Z"}
    world.job = None
    assert world.repair().progress.accepted == 1
    after = world.states()
    assert (after["T"], after["K"]) == (before["T"], before["K"])


def test_what_it_is_asked_and_what_it_changes() -> None:
    world = forgetful("T[topic] <- A cites Q by @dora:a; U[topic] <- T cites Q by @dora:a")
    elsewhere = Elsewhere(RIGHT, "TU")
    plan = planned(world, elsewhere)
    (state,) = plan.borrowed
    assert {*elsewhere.asked} == {"T"}
    assert state.difference == (StateChange(*POWER, "P", "Q"),)
    assert plan.state_changes == (
        StateChange(*POWER, "P", "Q"),
        StateChange("m.room.topic", "", None, "U"),
    )
    # It binds the plan.
    assert plan.fingerprint != world.plan().fingerprint
    other = planned(world, Elsewhere({CREATE: "C", POWER: "Q"}, "TU"))
    assert steps(other) == steps(plan) and other.fingerprint != plan.fingerprint


def test_a_server_that_does_not_hold_it() -> None:
    world = forgetful("T[topic] <- A cites Q" + DORA)
    plan = planned(world, Elsewhere(RIGHT, ""))
    assert (steps(plan), plan.borrowed) == ("-T", ())
    assert plan.fingerprint == world.plan().fingerprint


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({CREATE: "C", POWER: "P"}, "elsewhere: may not by P"),
        ({**RIGHT, NAME: "R"}, "elsewhere: it holds R, which is rejected here"),
        ({**RIGHT, NAME: "Z"}, "elsewhere: it holds Z, which is rejected here"),
    ],
)
def test_a_state_that_does_not_help(state: StateIds, says: str) -> None:
    world = forgetful("R[name] <- A cites P by @mallory:a; T[topic] <- A cites Q by @dora:a")
    plan = planned(world, Elsewhere(state, "T"))
    assert (steps(plan), plan.borrowed) == ("-R -T", ())
    verdict = list(plan.verdicts)[-1].verdict
    assert verdict.check is Check.STATE_BEFORE and verdict.error is not None
    assert verdict.error.endswith(says)


@pytest.mark.parametrize("kill_after", [None, 0, 1, 2])
def test_runs_with_what_was_kept(kill_after: int | None) -> None:
    world = forgetful("T[topic] <- A cites Q by @dora:a; K <- T cites Q; L <- K cites Q")
    plan = planned(world, Elsewhere(RIGHT, "T"))
    request = RepairRequest(Scope(), Deliver.LIVE, state_from="a", borrowed=plan.borrowed)
    assert RepairRequest.from_json(request.to_json()) == request
    world.kill_after = kill_after
    with suppress(Killed):
        world.repair_with(request)
    world.kill_after = None
    job = world.job if kill_after is None and world.job else world.repair()
    assert (job.status, job.progress.accepted) == (Status.COMPLETE, 1)
    assert world.rejected == set() and world.borrowed == {"T"}
    assert world.current == {**RIGHT, ("m.room.topic", ""): "T"}
    # Nothing takes it for an error afterwards.
    world.job = None
    assert world.plan().idle and world.repair().progress.accepted == 0
    assert world.current == {**RIGHT, ("m.room.topic", ""): "T"}


def test_a_state_that_is_not_the_one_that_it_was_compared_with() -> None:
    world = forgetful("T[topic] <- A cites Q" + DORA)
    request = RepairRequest(
        Scope(),
        Deliver.LIVE,
        state_from="a",
        borrowed=(borrow("T", {**RIGHT, POWER: "P", NAME: "Y"}, {**RIGHT, NAME: "Y"}),),
    )
    before = world.snapshot()
    with pytest.raises(StateMoved, match="T"):
        world.repair_with(request)
    assert world.snapshot() == before


def test_differences() -> None:
    ours = {CREATE: "C", POWER: "P", NAME: "N"}
    theirs = {CREATE: "C", POWER: "Q", ("m.room.topic", ""): "T"}
    state = borrow("X", ours, theirs)
    assert state.over(ours) == theirs
    assert state.over({**ours, ("test", ""): "More"}) is None
    assert BorrowedState.from_json(state.to_json()) == state
    assert attr.evolve(state, digest="other").over(ours) is None
    assert KeptStates("a", [state]).expected == {"X"}
