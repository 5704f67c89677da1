"""What holds on every DAG: drawn by hypothesis, received by worlds that err and that do not."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import attr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synapse_rejection_repair.domain.cascade import cascades, cited
from synapse_rejection_repair.domain.dag import in_order
from synapse_rejection_repair.domain.delivery import Deliver
from synapse_rejection_repair.domain.job import Status
from synapse_rejection_repair.domain.model import Node, state_changes
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.domain.steps import Action
from tests.domain.world import POWER, Killed, World

USERS = ("@alice:a", "@carol:b", "@mallory:a")
FORKS = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Node]:
    """Nodes with edges to anywhere: forwards, backwards, to themselves, to nowhere."""
    count = draw(st.integers(0, 12))
    orderings = draw(st.permutations(range(count)))
    names = [f"E{n}" for n in range(count)]
    refs = st.lists(st.sampled_from([*names, "gone"]), max_size=3).map(tuple)
    return {
        name: Node(
            *(name, "m.room.message", None, draw(st.sampled_from(USERS))),
            *(ordering * 7, 1, ordering),
            prev_event_ids=draw(refs),
            auth_event_ids=draw(refs),
            rejected="auth_error",
        )
        for name, ordering in zip(names, orderings, strict=True)
    }


def parents(node: Node, nodes: Mapping[str, Node]) -> set[str]:
    refs = {*node.prev_event_ids, *node.auth_event_ids}
    return {ref for ref in refs if ref in nodes and ref != node.event_id}


def on_or_behind_a_cycle(nodes: Mapping[str, Node]) -> set[str]:
    left = set(nodes)
    while True:
        free = {i for i in left if not parents(nodes[i], nodes) & left}
        if not free:
            return left
        left -= free


@given(graphs())
def test_in_order_yields_everything_once_and_parents_first(nodes: dict[str, Node]) -> None:
    found = [node.event_id for node in in_order(nodes)]
    assert sorted(found) == sorted(nodes)
    late = on_or_behind_a_cycle(nodes)
    place = {event_id: n for n, event_id in enumerate(found)}
    for event_id in nodes.keys() - late:
        assert all(place[p] < place[event_id] for p in parents(nodes[event_id], nodes))
    # What is left over comes last, as it was stored.
    tail = found[len(nodes) - len(late) :]
    assert set(tail) == late
    assert tail == sorted(late, key=lambda i: nodes[i].stream_ordering)


@given(graphs())
def test_in_order_takes_the_first_stored_of_those_that_are_ready(nodes: dict[str, Node]) -> None:
    late = on_or_behind_a_cycle(nodes)
    done: set[str] = set()
    for node in in_order(nodes):
        if node.event_id in late:
            return
        ready = [n for i, n in nodes.items() if i not in done and parents(n, nodes) <= done]
        assert node is min(ready, key=lambda n: n.stream_ordering)
        done.add(node.event_id)


@given(graphs())
def test_nothing_hides_from_the_cascades(nodes: dict[str, Node]) -> None:
    found = cascades(nodes)
    # Who cites whom, closed by brute force.
    behind = {root: {root} for root in found}
    for _ in nodes:
        for reached in behind.values():
            reached |= {i for i, n in nodes.items() if reached.intersection(cited(n, nodes))}
    assert set().union(*behind.values()) == nodes.keys()
    for root in nodes:
        if not cited(nodes[root], nodes):
            assert root in found
    for root, cascade in found.items():
        others = [nodes[i] for i in behind[root] - {root}]
        assert cascade.count == len(others)
        assert cascade.first_ts == min((n.origin_server_ts for n in others), default=None)
        assert cascade.last_ts == max((n.origin_server_ts for n in others), default=None)
        assert sum(cascade.servers.values()) == len(others)
        # A root either cites nothing that is rejected, or is on a claimed cycle.
        cites = cited(nodes[root], nodes)
        assert not cites or behind[root].intersection(cites)
    assert list(found) == [n.event_id for n in in_order(nodes) if n.event_id in found]


@attr.s(auto_attribs=True)
class Drawn:
    """One history, as a server that does not err has received it, and as one that does."""

    powers: dict[str, tuple[str, ...]]
    right: World
    wrong: World


@st.composite
def histories(draw: st.DrawFn) -> Drawn:
    """Honest and dishonest events, of which the server that errs rejects some at will."""
    powers: dict[str, tuple[str, ...]] = {}
    right = World(powers)
    create = Node("E0", "m.room.create", "", "@alice:a", 0, 1, 1, (), ())
    right.receive([create])
    for number in range(1, draw(st.integers(2, 12))):
        name, known = f"E{number}", list(right.nodes)
        # Mostly at the end, so that chains form, and sometimes anywhere.
        newest = st.sampled_from(known[-3:])
        prevs = draw(st.lists(st.one_of(newest, st.sampled_from(known)), min_size=1, max_size=2))
        kind = draw(st.sampled_from(["message", "message", "topic", "name", "power_levels"]))
        sender = draw(st.sampled_from(USERS))
        if kind == "power_levels":
            powers[name] = USERS[: draw(st.integers(1, 2))]
        node = Node(
            *(name, f"m.room.{kind}", None if kind == "message" else "", sender, number * 1000),
            depth=1 + max(right.nodes[p].depth for p in prevs),
            stream_ordering=0,
            prev_event_ids=tuple(dict.fromkeys(prevs)),
            auth_event_ids=(),
        )
        # An honest server cites what the rules ask for; another may cite anything besides.
        auth = {right._state_before(node).get(POWER)}
        if draw(st.integers(0, 4)) == 0:
            auth.add(draw(st.sampled_from(known)))
        node = attr.evolve(node, auth_event_ids=tuple(sorted(a for a in auth if a)))
        right.receive([node])
    sabotage = draw(st.sets(st.sampled_from(list(right.nodes)[1:]), max_size=3))
    wrong = World(powers).receive(right.nodes.values(), sabotage)
    return Drawn(powers, right, wrong)


def assert_whole(world: World, right: World) -> None:
    """Asserts that a world is as if it had never erred."""
    assert world.rejected == right.rejected
    assert world.edges == right.edges
    assert world.extremities == right.extremities
    assert world.current == right.current
    assert world.states() == right.states()
    assert world.replacing() == right.replacing()


@FORKS
@given(histories())
def test_what_errs_is_wrong_only_where_it_rejects(drawn: Drawn) -> None:
    # What the other properties rest on: histories in which a server accepts what it should not
    # are none that a repair is for.
    assert drawn.wrong.rejected >= drawn.right.rejected


@FORKS
@given(histories(), st.sampled_from(Deliver))
def test_a_plan_foretells_the_run_and_writes_nothing(drawn: Drawn, deliver: Deliver) -> None:
    right, world = drawn.right, drawn.wrong
    before = world.snapshot()
    plan = world.plan(deliver=deliver)
    assert world.snapshot() == before

    received = {s.node.event_id for s in plan.steps if s.action is Action.RECEIVE}
    rejected = {s.node.event_id for s in plan.steps if s.action is Action.REJECT}
    restated = {s.node.event_id for s in plan.steps if s.action is Action.RESTATE}
    assert received == world.rejected - right.rejected
    assert rejected == right.rejected
    wrong_state = {
        i
        for i in world.accepted
        if world.states()[i] != right.states()[i] or world.noted.get(i) != right.noted.get(i)
    }
    # Of what stays rejected, the state before it is for a repair to decide.
    assert restated & world.accepted == wrong_state
    assert plan.extremities == right.extremities
    assert list(plan.state_changes) == state_changes(world.current, right.current)

    job = world.repair(deliver=deliver)
    assert (job.status, job.error) == (Status.COMPLETE, None)
    assert (job.progress.accepted, job.progress.rejected) == (plan.accepted, plan.rejected)
    assert job.progress.done == job.progress.total == plan.accepted + plan.rejected
    assert job.progress.state_changes == plan.state_changes
    done = {action: {i for i, a in world.journal if a is action} for action in Action}
    assert (done[Action.RECEIVE], done[Action.RESTATE]) == (received, restated)
    assert len(world.journal) == len(received) + len(restated)
    assert_whole(world, right)


@FORKS
@given(histories())
def test_a_second_run_finds_nothing_to_do(drawn: Drawn) -> None:
    world = drawn.wrong
    world.repair()
    plan = world.plan()
    assert plan.idle
    assert {s.action for s in plan.steps} <= {Action.REJECT}
    before = world.snapshot()
    world.journal = []
    job = world.repair()
    assert (job.status, job.progress.accepted) == (Status.COMPLETE, 0)
    assert world.journal == []
    world.journal = list(before[7])  # type: ignore[index]
    assert world.snapshot() == before


@FORKS
@given(histories(), st.lists(st.integers(0, 6), max_size=4))
def test_kills_change_nothing_in_the_end(drawn: Drawn, kills: list[int]) -> None:
    right, world = drawn.right, drawn.wrong
    wrongly_rejected = world.rejected - right.rejected
    for steps in [*kills, None]:
        world.kill_after = steps
        with suppress(Killed):
            job = world.repair()
            break
    assert job.status is Status.COMPLETE
    assert job.progress.accepted == len(wrongly_rejected)
    assert world.journalled_now(Action.RECEIVE) == wrongly_rejected
    assert_whole(world, right)


@FORKS
@given(histories(), st.integers(0, 6))
def test_a_cancelled_run_leaves_a_consistent_room(drawn: Drawn, after: int) -> None:
    world = drawn.wrong
    world.cancel_after = after
    job = world.repair()
    world.cancel_after = None
    assert job.status in (Status.CANCELLED, Status.COMPLETE)
    # Nothing dangles: the extremities are what nothing accepted follows, and the current state
    # is what they resolve to.
    followed = {p for i in world.accepted for p in world.edges[i]}
    assert world.extremities == world.accepted - followed
    states = [world.states()[i] for i in world.extremities]
    assert world.current == world._resolve(states, world._rejected)

    assert world.repair().status is Status.COMPLETE
    assert_whole(world, drawn.right)


@FORKS
@given(histories(), st.data())
def test_parts_make_up_the_whole(drawn: Drawn, data: st.DataObject) -> None:
    world = drawn.wrong
    if not world.rejected:
        return
    some = frozenset(data.draw(st.sets(st.sampled_from(sorted(world.rejected)), min_size=1)))
    suspects = {i: world.nodes[i] for i in world.rejected}
    chosen = Scope(some).select(suspects)
    plan = world.plan(Scope(some))
    assert {s.node.event_id for s in plan.verdicts} == chosen
    before = world.rejected
    job = world.repair(Scope(some))
    assert job.status is Status.COMPLETE
    assert before - world.rejected == {
        s.node.event_id for s in plan.steps if s.action is Action.RECEIVE
    }
    assert before - world.rejected <= chosen
    assert world.rejected >= drawn.right.rejected
    assert world.repair().status is Status.COMPLETE
    assert_whole(world, drawn.right)


@FORKS
@given(histories(), st.integers(0, 12_000))
def test_a_span_of_time_bounds_what_is_touched(drawn: Drawn, until: int) -> None:
    world = drawn.wrong
    before = world.rejected
    world.repair(Scope(until_ts=until))
    assert all(world.nodes[i].origin_server_ts <= until for i in before - world.rejected)
    world.repair()
    assert_whole(world, drawn.right)
