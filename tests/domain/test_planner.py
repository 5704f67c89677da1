"""Plans and runs for rooms that are drawn, on the in-memory server of `world`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import attr
import pytest

from synapse_rejection_repair.domain.delivery import Deliver
from synapse_rejection_repair.domain.job import Status
from synapse_rejection_repair.domain.model import Check, Outcome, StateChange, StateIds
from synapse_rejection_repair.domain.plan import Plan
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.domain.steps import Action
from synapse_rejection_repair.ports import Checker
from tests.domain.drawing import draw
from tests.domain.world import World, run

START = "C[create]; P[power_levels] <- C cites C;"
"""What the rooms below begin with; alice has the power."""


def erring(text: str, powers: Mapping[str, Collection[str]] | None = None) -> World:
    """A world that has rejected the events marked so, and what Synapse rejects because of them."""
    return _received(text, powers, sabotage=True)


def _received(
    text: str,
    powers: Mapping[str, Collection[str]] | None,
    *,
    sabotage: bool,
    soft_fails: bool = False,
) -> World:
    world = World(powers, soft_fails=soft_fails)
    nodes = draw(START + text)
    marked = {i for i, node in nodes.items() if node.rejected} if sabotage else set()
    world.receive((attr.evolve(n, rejected=None) for n in nodes.values()), marked)
    return world


def steps(plan: Plan) -> str:
    """A plan in short: `+` receive, `-` reject, `=` restate, `?` index."""
    signs = {Action.RECEIVE: "+", Action.REJECT: "-", Action.RESTATE: "=", Action.INDEX: "?"}
    return " ".join(signs[s.action] + s.node.event_id for s in plan.steps)


@pytest.mark.parametrize(
    ("drawing", "expected", "extremities"),
    [
        pytest.param("A <- P cites P", "", "A", id="nothing is wrong"),
        pytest.param("A* <- P cites P", "+A", "A", id="a message that nobody cites"),
        pytest.param(
            "X*[power_levels] <- P cites P; A <- X cites X; B <- A cites X",
            "+X +A +B",
            "B",
            id="a root and its cascade",
        ),
        pytest.param(
            "X*[power_levels] <- P cites P; K <- P cites P; A <- X cites X; L <- K cites P",
            "+X +A",
            "A L",
            id="while the server's own events went on",
        ),
        pytest.param(
            "X*[power_levels] <- P cites P; K <- P cites P; A <- X, K cites X",
            "+X +A",
            "A",
            id="a merge with its own",
        ),
        pytest.param(
            "T*[topic] <- P cites P; A <- T cites P; B <- A cites P",
            "+T =A =B",
            "B",
            id="state that nobody cites, under what was accepted",
        ),
        pytest.param(
            "T*[topic] <- P cites P; A <- T cites P; U[topic] <- A cites P; B <- U cites P",
            # The state after U stays, but that before it does not.
            "+T =A =U",
            "B",
            id="restated only as far as it makes a difference",
        ),
        pytest.param(
            "T*[topic] <- P cites P; A <- T cites P; K <- P cites P; M <- A, K cites P",
            "+T =A =M",
            "M",
            id="restated through a merge",
        ),
        pytest.param(
            "T*[topic] <- P cites P; A <- T cites P; X*[power_levels] <- A cites P; B <- X cites X",
            "+T =A +X +B",
            "B",
            id="two roots, one behind the other",
        ),
        pytest.param(
            "X*[power_levels] <- P cites P; Y*[member @u:a] <- X cites P; B <- Y cites X, Y",
            "+X +Y +B",
            "B",
            id="an event in two cascades",
        ),
        pytest.param(
            "H[topic] <- P cites P by @mallory:a; X*[power_levels] <- P cites P;"
            "A <- X cites X; I <- H cites H",
            "-H +X +A -I",
            "A",
            id="hostile events stay rejected, with what cites them",
        ),
        pytest.param(
            "X*[power_levels] <- P cites P; H[topic] <- X cites X by @mallory:a; A <- X cites X",
            "+X -H +A",
            "A",
            id="a hostile event in the cascade",
        ),
        pytest.param(
            "T*[topic] <- P cites P; H[name] <- T cites P by @mallory:a; A <- H cites P",
            "+T -H =A",
            # Synapse writes no edges of a rejected event, so nothing accepted follows T.
            "A T",
            id="what follows a hostile event has the state before it",
        ),
    ],
)
def test_plans(drawing: str, expected: str, extremities: str) -> None:
    world = erring(drawing)
    right = _received(drawing, None, sabotage=False)
    plan = world.plan()
    # How the state before what stays rejected is mended is for the planner to say.
    hostile = {s.node.event_id for s in plan.steps if s.action is Action.REJECT}
    found = [s for s in steps(plan).split() if not (s[0] == "=" and s[1:] in hostile)]
    assert found == expected.split()
    assert plan.extremities == set(extremities.split())

    job = world.repair()
    assert (job.status, job.error) == (Status.COMPLETE, None)
    assert world.rejected == right.rejected
    assert world.states() == right.states()
    assert (world.current, world.extremities) == (right.current, right.extremities)
    assert world.plan().idle


def test_state_changes_are_those_of_the_current_state() -> None:
    world = erring(
        "T[topic] <- P cites P; X*[power_levels] <- T cites P; U[topic] <- X cites X;"
        "V[topic] <- U cites X; N[name] <- V cites X"
    )
    assert world.current[("m.room.topic", "")] == "T"
    assert world.plan().state_changes == (
        StateChange("m.room.name", "", None, "N"),
        StateChange("m.room.power_levels", "", "P", "X"),
        StateChange("m.room.topic", "", "T", "V"),
    )


def test_no_current_state_is_kept_of_a_room_that_this_server_is_out_of() -> None:
    world = erring("A <- P cites P")
    assert world.plan().idle
    # As Synapse leaves it.
    world.current, world.joined = {}, False
    assert world.plan().idle
    world.joined = True
    assert [change.after for change in world.plan().state_changes] == ["C", "P"]


def test_the_reasons_of_what_stays_rejected() -> None:
    world = erring(
        "X*[power_levels] <- P cites P; H[topic] <- X cites X by @mallory:a; I <- H cites H;"
        "J[topic] <- X cites C by @mallory:a"
    )
    verdicts = {s.node.event_id: s.verdict for s in world.plan().verdicts}
    assert verdicts["X"].accepted and verdicts["X"].check is None and verdicts["X"].error is None
    assert verdicts["H"].check is Check.AUTH_EVENTS and "may not" in (verdicts["H"].error or "")
    assert verdicts["I"].check is Check.AUTH_EVENTS and "rejected" in (verdicts["I"].error or "")
    # It cites nothing against it; the state before it speaks against it.
    assert verdicts["J"].check is Check.STATE_BEFORE


def test_what_was_accepted_first_speaks_for_what_comes_later() -> None:
    # Carol may set the topic by X alone, which only the plan takes as accepted.
    drawing = "X*[power_levels] <- P cites P; T[topic] <- X cites X by @carol:b"
    world = erring(drawing, {"X": ("@alice:a", "@carol:b")})
    assert steps(world.plan()) == "+X +T"
    world = erring(drawing)
    assert steps(world.plan()) == "+X -T =T"


def test_what_stays_rejected_does_not_speak_for_what_comes_later() -> None:
    drawing = "X[power_levels] <- P cites P by @mallory:a; T[topic] <- X cites P by @mallory:a"
    world = erring(drawing, {"X": ("@mallory:a",)})
    assert steps(world.plan()) == "-X -T"
    assert world.plan().idle


def test_scope() -> None:
    world = erring(
        "X*[power_levels] <- P cites P; Y*[member @u:a] <- X cites P; A <- Y cites X;"
        "B <- A cites Y; D <- B cites P"
    )
    # D, accepted, follows what was rejected, and has the state that is left.
    assert world.rejected == {"X", "Y", "A", "B"}
    plan = world.plan(Scope(frozenset("Y")))
    assert steps(plan) == "+Y =A +B =D"
    assert [c.after for c in plan.state_changes] == ["Y"]
    world.repair(Scope(frozenset("Y")))
    assert world.rejected == {"X", "A"}
    assert world.plan(Scope(frozenset("Y"))).idle

    plan = world.plan(Scope(frozenset("X")))
    assert {s.node.event_id for s in plan.verdicts} == {"X", "A"}
    world.repair(Scope(frozenset("X")))
    assert world.rejected == set()
    right = _received(
        "X*[power_levels] <- P cites P; Y*[member @u:a] <- X cites P; A <- Y cites X;"
        "B <- A cites Y; D <- B cites P",
        None,
        sabotage=False,
    )
    assert world.states() == right.states()
    assert (world.current, world.extremities) == (right.current, right.extremities)


def test_an_event_of_two_cascades_stays_rejected_with_the_root_that_is_out_of_scope() -> None:
    world = erring("X*[power_levels] <- P cites P; Y*[member @u:a] <- X cites P; B <- Y cites X, Y")
    plan = world.plan(Scope(frozenset("X")))
    assert steps(plan) == "+X =Y -B =B"
    world.repair(Scope(frozenset("X")))
    assert world.rejected == {"Y", "B"}
    world.repair(Scope(frozenset("Y")))
    assert world.rejected == set()


def test_force() -> None:
    drawing = (
        "H[power_levels] <- P cites P by @mallory:a; A <- H cites H; B[topic] <- A cites H"
        " by @mallory:a; X[name] <- P cites P by @mallory:a"
    )
    world = erring(drawing, {"H": ("@mallory:a",)})
    assert steps(world.plan()) == "-H -A -B -X"
    plan = world.plan(Scope(force=frozenset("H")))
    # What then passes behind it is accepted; what is not named is judged as ever.
    assert steps(plan) == "+H +A +B -X"
    assert not any(s.verdict.soft_failed for s in plan.steps)
    request = Scope(force=frozenset("H"))
    job = world.repair(request)
    assert (job.status, job.progress.accepted) == (Status.COMPLETE, 3)
    assert world.rejected == {"X"}
    assert world.current[("m.room.power_levels", "")] == "H"


def test_force_does_not_help_where_something_is_unknown() -> None:
    world = erring("A* <- P cites P")
    node = attr.evolve(world.nodes["A"], auth_event_ids=("P", "Q"))
    world.nodes["A"] = node
    for scope in (Scope(), Scope(force=frozenset("A"))):
        (step,) = world.plan(scope).steps
        assert step.action is Action.REJECT
        assert step.verdict.outcome is Outcome.UNKNOWN
        assert step.verdict.check is Check.AUTH_EVENTS


def test_no_state_before() -> None:
    # A came with all of its past missing, and nothing was stored of the state before it.
    world = erring("A* <- gone cites P")
    del world.after["A"]
    (step,) = world.plan().steps
    assert step.action is Action.REJECT
    assert (step.verdict.outcome, step.verdict.check) == (Outcome.UNKNOWN, Check.STATE_BEFORE)
    assert world.plan().idle
    assert world.repair().progress.accepted == 0


def test_the_state_at_a_gap_is_the_one_that_was_stored() -> None:
    # In the past that is missing, carol got her power; A's server said so when it came.
    world = World({"Q": ("@alice:a", "@carol:b")})
    world.receive(draw(START).values())
    known = {**world.current, ("m.room.power_levels", ""): "Q"}
    (power,) = draw("Q[power_levels] cites P").values()
    world.nodes["Q"] = attr.evolve(power, stream_ordering=90, depth=9)
    (node,) = draw("A*@91[topic] <- gone cites Q by @carol:b").values()
    world.nodes["A"] = node
    world.after["A"] = world._group(known)
    plan = world.plan()
    assert steps(plan) == "+A"


def test_outliers() -> None:
    # An outlier has no state before it: it is judged by what it cites alone.
    world = erring("O*~[member @u:a] cites P; Q*~[topic] cites P by @mallory:a; A <- P cites O")
    world.nodes["Q"] = attr.evolve(world.nodes["Q"], rejected="auth_error")
    plan = world.plan()
    assert steps(plan) == "+O -Q +A"
    assert plan.extremities == {"A"}
    # It is no part of the state.
    assert plan.state_changes == ()
    job = world.repair()
    assert (job.status, job.progress.accepted, job.progress.rejected) == (Status.COMPLETE, 2, 1)
    assert world.rejected == {"Q"}
    assert world.extremities == {"A"}


def test_unrejected_by_hand() -> None:
    # The known cure: marked as accepted, hostile ones too, with nothing that belongs to it.
    drawing = (
        "X*[power_levels] <- P cites P; A <- X cites X; H[topic] <- P cites P by @mallory:a;"
        "K <- P cites P"
    )
    world = erring(drawing)
    for event_id in world.rejected:
        world.nodes[event_id] = attr.evolve(world.nodes[event_id], rejected=None, damaged=True)
    plan = world.plan()
    assert steps(plan) == "+X +A -H"
    assert not plan.idle
    job = world.repair()
    assert (job.status, job.progress.accepted, job.progress.rejected) == (Status.COMPLETE, 2, 1)
    right = _received(drawing, None, sabotage=False)
    assert world.rejected == {"H"} == right.rejected
    assert world.states() == right.states()
    assert (world.edges, world.current) == (right.edges, right.current)
    assert world.extremities == right.extremities
    assert world.plan().idle


def test_unrejected_by_hand_and_beyond_judgement() -> None:
    # What it cites is missing: it is neither received nor marked rejected for that.
    world = erring("A*[topic] <- P cites P; B <- A cites A")
    auth = world.nodes["A"].auth_event_ids
    world.nodes["A"] = attr.evolve(
        world.nodes["A"], rejected=None, damaged=True, auth_event_ids=(*auth, "Q")
    )
    plan = world.plan()
    assert steps(plan) == "-A +B"
    assert plan.steps[0].verdict.outcome is Outcome.UNKNOWN
    job = world.repair()
    assert (job.status, job.progress.accepted, job.progress.rejected) == (Status.COMPLETE, 1, 1)
    assert world.rejected == set() and world.nodes["A"].damaged
    assert [event_id for event_id, _ in world.journal] == ["B"]
    assert world.plan().idle


def test_bad_extremities_are_mended_where_nothing_is_received() -> None:
    world = erring("K <- P cites P; H[topic] <- P cites P by @mallory:a")
    world.extremities |= {"H", "gone"}
    plan = world.plan()
    assert steps(plan) == "-H"
    assert (plan.mend_extremities, plan.idle) == (True, False)
    assert plan.extremities == {"K"}
    job = world.repair()
    assert (job.status, job.progress.accepted) == (Status.COMPLETE, 0)
    assert world.extremities == {"K"}
    assert world.plan().idle


def test_missing_search_rows_are_written() -> None:
    world = erring("A <- P cites P; X* <- A cites P")
    world.unindexed = {"A"}
    plan = world.plan()
    assert steps(plan) == "+X ?A"
    assert (plan.accepted, plan.rejected) == (1, 0)
    job = world.repair()
    assert (job.status, job.progress.accepted, job.progress.total) == (Status.COMPLETE, 1, 1)
    assert world.unindexed == set()


def test_history_is_flagged_in_the_plan() -> None:
    drawing = (
        "X*[power_levels] <- P cites P; M <- X cites X; T[topic] <- M cites X;"
        "U[topic] <- T cites X; N <- U cites X"
    )
    flagged = {
        deliver: {
            s.node.event_id for s in erring(drawing).plan(deliver=deliver).steps if s.backfill
        }
        for deliver in Deliver
    }
    assert flagged == {Deliver.LIVE: set(), Deliver.HISTORY: {"M", "T"}}


def test_soft_failure_is_decided_by_what_was_known_then() -> None:
    # Carol's topic follows X, which gave her the power; but alice's Z had taken it again, and the
    # server knew: it would have soft-failed the topic.
    powers = {"X": ("@alice:a", "@carol:b")}
    drawing = (
        "X*[power_levels] <- P cites P; Z[power_levels] <- X cites X; T[topic] <- X cites X"
        " by @carol:b"
    )
    world = _received(drawing, powers, sabotage=True, soft_fails=True)
    verdicts = {s.node.event_id: s.verdict for s in world.plan().verdicts}
    assert {i: v.accepted for i, v in verdicts.items()} == {"X": True, "Z": True, "T": True}
    assert {i for i, v in verdicts.items() if v.soft_failed} == {"T"}
    # A soft-failed event is no extremity.
    assert world.plan().extremities == {"Z"}
    world.repair()
    assert (world.extremities, world.soft_failed) == ({"Z"}, {"T"})

    # The other way round it would have been fine, and still is.
    world = _received(
        "X*[power_levels] <- P cites P; T[topic] <- X cites X by @carol:b;"
        "Z[power_levels] <- X cites X",
        powers,
        sabotage=True,
        soft_fails=True,
    )
    plan = world.plan()
    assert not any(s.verdict.soft_failed for s in plan.steps)
    assert plan.extremities == {"T", "Z"}


def test_soft_failure_is_not_decided_by_a_state_that_is_still_to_be_mended() -> None:
    # M was accepted, with a state in which carol has no power yet: that is a part of the error.
    world = _received(
        "X*[power_levels] <- P cites P; T[topic] <- X cites X by @carol:b; A <- X cites P;"
        "M <- T,A cites P",
        {"X": ("@alice:a", "@carol:b")},
        sabotage=True,
        soft_fails=True,
    )
    assert {i for i, node in world.nodes.items() if node.rejected} == {"X", "T"}
    plan = world.plan()
    assert {s.node.event_id: s.verdict.soft_failed for s in plan.verdicts} == {
        "X": False,
        "T": False,
    }
    world.repair()
    assert (world.extremities, world.soft_failed) == ({"M"}, set())


def test_verdicts_of_roots_are_those_of_the_plan() -> None:
    world = erring(
        "X*[power_levels] <- P cites P; A <- X cites X; H[topic] <- A cites P by @mallory:a;"
        "O*~[topic] cites P by @mallory:a"
    )
    world.nodes["O"] = attr.evolve(world.nodes["O"], rejected="auth_error")
    facts = run(world.facts())
    before = world.snapshot()
    verdicts = run(world.planner.verdicts(facts, ["X", "H", "O"]))
    assert world.snapshot() == before
    planned = {s.node.event_id: s.verdict for s in world.plan().verdicts}
    assert verdicts == {root: planned[root] for root in ("X", "H", "O")}
    assert [verdicts[root].accepted for root in ("X", "H", "O")] == [True, False, False]


def test_a_verdict_is_checked_again_before_it_is_carried_out() -> None:
    world = erring("X*[power_levels] <- P cites P; A <- X cites X; B <- A cites A")

    # Between the plan and the write, alice loses her power.
    def strike() -> None:
        world.powers = {"P": ()}

    world.on_apply = strike
    job = world.repair()
    assert (job.status, job.progress.accepted, job.progress.rejected) == (Status.COMPLETE, 0, 3)
    assert world.rejected == {"X", "A", "B"}
    assert world.journal == []


def test_what_the_race_rejects_is_repaired_by_the_same_job() -> None:
    world = erring("X*[power_levels] <- P cites P; A <- X cites X")
    late = list(draw(START + "X; A; R <- A cites X; S <- R cites X").values())[-2:]

    # R comes in just before X is taken, S once it has been.
    def arrive() -> None:
        if late:
            world.receive([late.pop(0)], sabotage={"R"})

    world.on_apply = arrive
    job = world.repair()
    assert job.status is Status.COMPLETE
    assert world.nodes.keys() >= {"R", "S"} or late
    world.receive(late)
    assert world.rejected == set()
    assert job.progress.accepted == job.progress.total >= 3
    assert world.plan().idle


def test_roots_are_judged_by_few_states_however_long_the_cascade() -> None:
    """A diagnosis judges no messages, but what they follow is no forward extremity any more."""
    drawing = "X*[power_levels] <- P cites P; K <- P cites P"
    last = "X"
    for n in range(20):
        drawing += f"; A{n} <- {last} cites X; T{n}[topic] <- A{n} cites X"
        last = f"T{n}"
    world = erring(drawing)
    facts = run(world.facts())
    resolved: list[int] = []
    resolve = world.resolve

    async def counted(
        room_id: str, room_version: str, states: Sequence[StateIds], checker: Checker
    ) -> StateIds:
        resolved.append(len(states))
        return await resolve(room_id, room_version, states, checker)

    world.resolve = counted  # type: ignore[method-assign]
    verdicts = run(world.planner.verdicts(facts, {"X"}))
    assert verdicts["X"].accepted
    assert resolved and max(resolved) == 2
