"""A server's view of one room, in memory, behind every port that a repair asks for.

Its rules are few, and its own: an event passes check 4 if all that it cites is accepted, and
checks 4 and 5 if its sender may send it by the power levels that it cites, and by those in the
state before it. What matters is that a world receives events one by one, as Synapse does, and
never looks at what the planner does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import attr

from synapse_rejection_repair.carrying_out import PlanExecutor
from synapse_rejection_repair.domain.affected import Behind
from synapse_rejection_repair.domain.delivery import Deliver
from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.job import Job, Status
from synapse_rejection_repair.domain.model import (
    ACCEPTED,
    Check,
    Node,
    Outcome,
    StateIds,
    StateKey,
    Verdict,
)
from synapse_rejection_repair.domain.plan import Plan
from synapse_rejection_repair.domain.repair import RepairJob, RepairProgress, RepairRequest
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.domain.steps import Action, Step
from synapse_rejection_repair.domain.tips import Spell
from synapse_rejection_repair.jobs import RepairRunner
from synapse_rejection_repair.planner import Planner
from synapse_rejection_repair.ports import Checker, StateLookup

T = TypeVar("T")
ROOM = "!room:a"
POWER: StateKey = ("m.room.power_levels", "")


class Killed(BaseException):
    """The process ended here."""


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs what never really waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    raise AssertionError("it waits for something")


class World:
    """A server in one room.

    Args:
        powers: who may send state events by an event of power levels; by default alice. Where
            no power levels are known, everybody may.
        soft_fails: whether check 6 is made too: the same rule, by the current state.
    """

    def __init__(
        self, powers: Mapping[str, Collection[str]] | None = None, *, soft_fails: bool = False
    ) -> None:
        self.powers = {} if powers is None else powers
        self.soft_fails = soft_fails
        self.nodes: dict[str, Node] = {}
        self.soft_failed: set[str] = set()
        self.groups: dict[int, StateIds] = {}
        self.after: dict[str, int] = {}
        self.noted: dict[str, str | None] = {}
        self.edges: dict[str, tuple[str, ...]] = {}
        self.extremities: set[str] = set()
        self.current: StateIds = {}
        self.joined = True
        self.unindexed: set[str] = set()
        self.journal: list[tuple[str, Action]] = []
        self.unfinished: set[str] = set()
        self.borrowed: set[str] = set()
        self.newest = 0
        self.job: RepairJob | None = None
        self.cancel_after: int | None = None
        self.kill_after: int | None = None
        self.on_apply: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        """The world as a drawing, with the state after each event."""
        lines = []
        for event_id, node in self.nodes.items():
            flags = "*" * bool(node.rejected) + "!" * node.damaged + "~" * node.outlier
            kind = "" if node.key is None else f"[{node.type.removeprefix('m.room.')}]"
            line = f"{event_id}{flags}@{node.stream_ordering}{kind} by {node.sender}"
            line += f" <- {','.join(node.prev_event_ids)} cites {','.join(node.auth_event_ids)}"
            state = self.states().get(event_id, {})
            lines.append(f"{line} | {' '.join(f'{k[0][7:]}={v}' for k, v in state.items())}")
        return "\n    ".join(["", *lines, f"-> {self.extremities} {self.current}"])

    # Receiving, as a server does.

    def receive(self, nodes: Iterable[Node], sabotage: Collection[str] = ()) -> World:
        """Receives events in the order given; those to be sabotaged are rejected."""
        for node in nodes:
            self._receive(node, node.event_id in sabotage)
        return self

    def _receive(self, node: Node, sabotaged: bool) -> None:
        before = {} if node.outlier else self._state_before(node)
        verdict = self.judge(node, self._rejected, None if node.outlier else before)
        self.newest += 1
        self.nodes[node.event_id] = attr.evolve(
            node,
            stream_ordering=self.newest,
            rejected=None if verdict.accepted and not sabotaged else "auth_error",
        )
        self._set(node, before)

    def _set(self, node: Node, before: StateIds) -> None:
        """Writes what follows from an event's acceptance or rejection."""
        accepted = self.nodes[node.event_id].rejected is None
        if node.outlier:
            return
        after = {**before, node.key: node.event_id} if accepted and node.key else dict(before)
        self.after[node.event_id] = self._group(after)
        if node.key:
            self.noted[node.event_id] = before.get(node.key)
        if accepted:
            self.edges[node.event_id] = node.prev_event_ids
            self.extremities.add(node.event_id)
            self._update_current_state()

    def _update_current_state(self) -> None:
        followed = run(self.followed(self.nodes))
        self.extremities = {
            i for i in self.extremities if i not in followed and i not in self.soft_failed
        }
        if self.extremities:
            states = [self.groups[self.after[i]] for i in self.extremities]
            self.current = self._resolve(states, self._rejected)

    def _group(self, state: StateIds) -> int:
        for group, known in self.groups.items():
            if known == state:
                return group
        self.groups[len(self.groups) + 1] = state
        return len(self.groups)

    def _state_before(self, node: Node) -> StateIds:
        states = [self.groups[self.after[p]] for p in node.prev_event_ids if p in self.after]
        return self._resolve(states, self._rejected)

    def _rejected(self, event_id: str) -> bool | None:
        node = self.nodes.get(event_id)
        return None if node is None else node.rejected is not None

    def judge(
        self, node: Node, rejected: Callable[[str], bool | None], before: StateIds | None
    ) -> Verdict:
        """The rules."""
        standing = {a: rejected(a) for a in node.auth_event_ids}
        missing = [a for a, known in standing.items() if known is None]
        if missing:
            return Verdict(Outcome.UNKNOWN, Check.AUTH_EVENTS, f"unknown: {missing}")
        bad = [a for a, is_rejected in standing.items() if is_rejected]
        if bad:
            return Verdict(Outcome.REJECT, Check.AUTH_EVENTS, f"rejected: {bad}")
        cited = [a for a in node.auth_event_ids if self.nodes[a].key == POWER]
        if not all(self._may(node, a) for a in cited):
            return Verdict(Outcome.REJECT, Check.AUTH_EVENTS, f"may not by {cited}")
        if before is not None and not self._may(node, before.get(POWER)):
            return Verdict(Outcome.REJECT, Check.STATE_BEFORE, f"may not by {before.get(POWER)}")
        return ACCEPTED

    def _may(self, node: Node, power_levels: str | None) -> bool:
        if power_levels is None or node.key is None:
            return True
        return node.sender in self.powers.get(power_levels, ("@alice:a",))

    def _resolve(
        self, states: Sequence[StateIds], rejected: Callable[[str], bool | None]
    ) -> StateIds:
        resolved: dict[StateKey, str] = {}
        for key in {key for state in states for key in state}:
            found = {state[key] for state in states if key in state}
            standing = [i for i in found if rejected(i) is False]
            if standing:
                resolved[key] = max(standing, key=lambda i: (self.nodes[i].depth, i))
        return resolved

    # What there is to compare.

    @property
    def rejected(self) -> set[str]:
        return {i for i, node in self.nodes.items() if node.rejected is not None}

    @property
    def accepted(self) -> set[str]:
        return self.nodes.keys() - self.rejected

    def states(self) -> dict[str, StateIds]:
        """The state after each event."""
        return {i: self.groups[group] for i, group in self.after.items()}

    def replacing(self) -> dict[str, str | None]:
        """The event that each accepted state event replaces, as noted."""
        return {i: noted for i, noted in self.noted.items() if i in self.accepted}

    def snapshot(self) -> object:
        """Everything, for proving that nothing was written."""
        return (
            dict(self.nodes),
            set(self.soft_failed),
            self.states(),
            dict(self.noted),
            dict(self.edges),
            set(self.extremities),
            dict(self.current),
            list(self.journal),
            set(self.unindexed),
        )

    def journalled_now(self, action: Action) -> set[str]:
        return {event_id for event_id, done in self.journal if done is action}

    # Asking for plans and repairs.

    @property
    def planner(self) -> Planner:
        ports: Any = self
        return Planner(ports, ports, lambda version: FakeChecker(self), ports)

    async def facts(self, room_id: str = ROOM, *, scan: bool = True) -> RoomFacts:
        suspects = {i: n for i, n in self.nodes.items() if n.rejected or n.damaged}
        stale = self._stale() - suspects.keys()
        return RoomFacts(
            room_id=room_id,
            room_version="10",
            suspects=suspects,
            stale={i: self.nodes[i] for i in stale},
            unindexed={i: self.nodes[i] for i in self.unindexed},
            current_state=dict(self.current),
            extremities=frozenset(self.extremities),
            bad_extremities=frozenset(
                await self.followed(self.extremities) | await self.not_standing(self.extremities)
            ),
            unfinished={i: self.nodes[i] for i in self.unfinished - suspects.keys()},
            defects={},
            borrowed=frozenset(self.borrowed),
        )

    async def read(self, room_id: str, *, scan: bool = True) -> RoomFacts:
        return await self.facts(room_id, scan=scan)

    def plan(self, scope: Scope | None = None, deliver: Deliver = Deliver.LIVE) -> Plan:
        """A dry run."""
        scope = scope or Scope()
        facts = run(self.facts())
        return run(self.planner.plan(facts, scope, deliver, scope.select(facts.suspects)))

    def repair(self, scope: Scope | None = None, deliver: Deliver = Deliver.LIVE) -> RepairJob:
        """A real run, or the rest of one that was killed."""
        if self.job is None or self.job.status.over:
            return self.repair_with(RepairRequest(scope or Scope(), deliver))
        return self._run(self.job)

    def repair_with(self, request: RepairRequest) -> RepairJob:
        """A real run."""
        self.job = Job("j", ROOM, Status.SCHEDULED, request, RepairProgress())
        self.journal = []
        return self._run(self.job)

    def _run(self, job: RepairJob) -> RepairJob:
        ports: Any = self
        runner = RepairRunner(
            store=ports,
            rooms=ports,
            facts=ports,
            planner=self.planner,
            writer=ports,
            executor=PlanExecutor(
                store=ports,
                rooms=ports,
                writer=ports,
                make_checker=lambda version: FakeChecker(self),
                clock=ports,
            ),
            undoing=ports,
            peer_states=ports,
            gaps=ports,
            clock=ports,
        )
        return run(self.save(run(runner.run(job))))

    # Clock.

    def now_ms(self) -> int:
        return 0

    async def pause(self, seconds: float = 0) -> None:
        pass

    async def breathe(self) -> None:
        pass

    async def in_thread(self, func: Callable[..., T], *args: object) -> T:
        return func(*args)

    def from_thread(self, func: Callable[[], None]) -> Callable[[], None]:
        return func

    def begin(self, work: Callable[[], Awaitable[T]]) -> Awaitable[T]:
        return work()

    # RoomReader, DagReader and FactsReader.

    async def require_room(self, room_id: str) -> str:
        return "10"

    async def require_repairable(self, room_id: str) -> None:
        pass

    async def position(self, room_id: str) -> int:
        return self.newest

    async def forward_extremities(self, room_id: str) -> frozenset[str]:
        return frozenset(self.extremities)

    async def accepted_behind(self, event_ids: Collection[str]) -> Behind:
        # One generation further than was asked for.
        looked_up = {*event_ids, *self._accepted_children(event_ids)}
        return Behind([self.nodes[i] for i in self._accepted_children(looked_up)], looked_up)

    def _accepted_children(self, event_ids: Collection[str]) -> list[str]:
        return [
            child
            for child, prevs in self.edges.items()
            if self.nodes[child].rejected is None and not {*prevs}.isdisjoint(event_ids)
        ]

    async def spells(
        self, facts: RoomFacts, positions: Sequence[int], also: Collection[str]
    ) -> dict[str, Spell]:
        found = {i: Spell(n.stream_ordering) for i, n in self.nodes.items() if not n.outlier}
        for node in self.nodes.values():
            if node.rejected is None and not node.outlier and node.event_id not in self.soft_failed:
                for prev in node.prev_event_ids:
                    if prev in found and node.stream_ordering < found[prev].until:
                        found[prev] = attr.evolve(found[prev], until=node.stream_ordering)
        return found

    async def followed(self, event_ids: Collection[str]) -> set[str]:
        return {
            prev
            for child, prevs in self.edges.items()
            if self.nodes[child].rejected is None and child not in self.soft_failed
            for prev in prevs
            if prev in event_ids
        }

    async def newest_accepted(self, room_id: str) -> list[str]:
        return sorted(self.accepted, key=lambda i: -self.nodes[i].depth)[:20]

    async def state_groups(self, event_ids: Collection[str]) -> dict[str, int]:
        return {i: self.after[i] for i in event_ids if i in self.after}

    async def replaced(self, event_ids: Collection[str]) -> dict[str, str | None]:
        return {i: self.noted.get(i) for i in event_ids}

    async def stream_orderings(self, event_ids: Collection[str]) -> dict[str, int]:
        return {i: self.nodes[i].stream_ordering for i in event_ids if i in self.nodes}

    async def not_standing(self, event_ids: Collection[str]) -> set[str]:
        return {
            i
            for i in event_ids
            if (n := self.nodes.get(i)) is None or n.rejected is not None or n.outlier
        }

    async def secure(self, *args: object) -> None:
        pass

    async def settled(self, room_id: str, since_ms: int) -> bool:
        return True

    def _stale(self) -> set[str]:
        """Accepted events with one parent, whose state is not the parent's."""
        stale = set()
        for event_id, prevs in self.edges.items():
            node = self.nodes[event_id]
            sound = node.rejected is None and event_id not in self.borrowed
            if sound and len(prevs) == 1 and prevs[0] in self.after:
                expected = dict(self.groups[self.after[prevs[0]]])
                if node.key is not None:
                    expected[node.key] = event_id
                if expected != self.groups[self.after[event_id]]:
                    stale.add(event_id)
        return stale

    # StateReader.

    async def entries(self, group: int, keys: Collection[StateKey]) -> StateIds:
        state = self.groups[group]
        return {key: state[key] for key in keys if key in state}

    async def full(self, group: int) -> StateIds:
        return dict(self.groups[group])

    async def resolve(
        self, room_id: str, room_version: str, states: Sequence[StateIds], checker: Checker
    ) -> StateIds:
        assert isinstance(checker, FakeChecker)
        return self._resolve(states, checker.rejected)

    async def joined_here(self, state: StateIds) -> bool:
        return self.joined

    # RoomWriter.

    async def prepare(self, plan: Plan) -> None:
        pass

    async def apply(
        self, job: RepairJob, steps: Sequence[Step], checker: Checker
    ) -> list[tuple[Step, Verdict]]:
        assert isinstance(checker, FakeChecker)
        assert len({(s.action, s.backfill) for s in steps}) == 1, "not to be carried out alike"
        assert len(self.journal) < 10 * len(self.nodes), "it goes round in circles"
        self.on_apply()
        decided = []
        for step in steps:
            if self.kill_after is not None:
                if self.kill_after == 0:
                    raise Killed
                self.kill_after -= 1
            verdict = self._apply(step, job.request.scope.force)
            decided.append((step, verdict))
            if verdict.outcome is not step.verdict.outcome:
                break
            checker.decide(step.node.event_id, verdict.accepted)
        return decided

    def _apply(self, step: Step, force: Collection[str]) -> Verdict:
        event_id = step.node.event_id
        node = self.nodes[event_id]
        if step.action is Action.INDEX:
            self.unindexed.remove(event_id)
            return ACCEPTED
        before = {} if node.outlier else step.state_before or self._state_before(node)
        if step.action is Action.RESTATE:
            sets = node.key is not None and node.rejected is None
            after = {**before, node.key: event_id} if sets and node.key else dict(before)
            self.after[event_id] = self._group(after)
            if sets and node.key:
                self.noted[event_id] = before.get(node.key)
            self.journal.append((event_id, step.action))
            self.unfinished.add(event_id)
            return step.verdict
        assert node.rejected is not None or node.damaged, f"{event_id} is sound"
        verdict = self.judge(node, self._rejected, None if node.outlier else before)
        if event_id in force and verdict.outcome is Outcome.REJECT:
            verdict = ACCEPTED
        if verdict.outcome is not step.verdict.outcome:
            return verdict
        self.newest += 1
        self.nodes[event_id] = attr.evolve(
            node,
            rejected=None if verdict.accepted else "auth_error",
            damaged=False,
            stream_ordering=self.newest,
        )
        self.journal.append((event_id, step.action))
        if verdict.accepted and node.key is not None:
            self.unfinished.add(event_id)
        if step.verdict.soft_failed:
            self.soft_failed.add(event_id)
        if step.state_before is not None:
            self.borrowed.add(event_id)
        self._set(node, before)
        return verdict

    async def finish(self, plan: Plan) -> None:
        bad = await self.not_standing(self.extremities | plan.extremities)
        self.extremities = (self.extremities | plan.extremities) - bad
        self._update_current_state()

    async def forget(self, room_id: str) -> None:
        pass

    async def finish_after(self, room_id: str, work: Callable[[], Awaitable[Plan]]) -> None:
        await self.finish(await work())

    def not_stored(self, room_id: str) -> list[str]:
        return []

    def attending(self, room_id: str) -> AbstractContextManager[None]:
        return nullcontext()

    # JobStore.

    async def save(self, job: RepairJob) -> RepairJob:
        if job.status is Status.COMPLETE:
            self.unfinished.clear()
        self.job = attr.evolve(
            job,
            cancel_requested=self.cancel_after is not None
            and len(self.journal) >= self.cancel_after,
        )
        return self.job

    async def get(self, job_id: str) -> RepairJob:
        assert self.job is not None
        return self.job

    async def cancel_requested(self, job_id: str) -> bool:
        return self.cancel_after is not None and len(self.journal) >= self.cancel_after

    async def journalled(self, job_id: str, action: str) -> frozenset[str]:
        return frozenset(self.journalled_now(Action(action)))


class FakeChecker:
    """The world's rules, on a world in which some events are only thought of as accepted."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._decided: dict[str, bool] = {}
        self._loaded: set[str] = set()

    def rejected(self, event_id: str) -> bool | None:
        if event_id in self._decided:
            return not self._decided[event_id]
        return self._world._rejected(event_id)

    async def load(self, nodes: Sequence[Node], *, verify: bool = True) -> None:
        self._loaded = {node.event_id for node in nodes}

    async def check(self, node: Node, state_before: StateLookup | None, *, force: bool) -> Verdict:
        assert node.event_id in self._loaded
        before = None if state_before is None else await state_before([POWER])
        verdict = self._world.judge(node, self.rejected, before)
        return ACCEPTED if force and verdict.outcome is Outcome.REJECT else verdict

    async def soft_fails(self, node: Node, current: StateLookup) -> str | None:
        assert node.event_id in self._loaded
        world = self._world
        levels = (await current([POWER])).get(POWER)
        if world.soft_fails and not world._may(node, levels):
            return f"may not by {levels}"
        return None

    async def banned(self, user_id: str, current: StateLookup) -> bool:
        return False

    def auth_keys(self, node: Node) -> Collection[StateKey]:
        return [POWER]

    def decide(self, event_id: str, accepted: bool) -> None:
        self._decided[event_id] = accepted

    async def not_accepted(self, event_ids: Collection[str]) -> list[str]:
        return [i for i in event_ids if self.rejected(i) is not False]
