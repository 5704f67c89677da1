"""Works out what a repair would do, by walking a room's DAG with Synapse's own checks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

import attr

from synapse_rejection_repair.domain.borrowed import BorrowedState, borrow
from synapse_rejection_repair.domain.dag import Frontier, ids_in_order
from synapse_rejection_repair.domain.extremities import forward_extremities
from synapse_rejection_repair.domain.model import (
    ACCEPTED,
    Check,
    Node,
    Outcome,
    StateIds,
    StateKey,
    Verdict,
    state_changes,
)
from synapse_rejection_repair.domain.nodes import NodeTable, Union
from synapse_rejection_repair.domain.plan import Deliver, Plan, RoomFacts, delivered_as_history
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.domain.state import StateBook, StateRef
from synapse_rejection_repair.domain.steps import Action, Kind, Steps
from synapse_rejection_repair.ports import Checker, Clock, RoomReader, StateLookup, StateReader
from synapse_rejection_repair.ports_peers import StatesElsewhere
from synapse_rejection_repair.soft_failures import SoftFailureJudge

T = TypeVar("T")
_BATCH = 200
"""How many events are read at a time."""

NO_STATE = Verdict(
    Outcome.UNKNOWN,
    Check.STATE_BEFORE,
    "The state before the event is not known here: events before it are missing",
)


_AS_REJECTED = Verdict(Outcome.REJECT)


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Planner:
    """Makes plans and verdicts. Reads only.

    Attributes:
        reader: the database.
        states: stored states and their resolution.
        make_checker: gives a fresh checker for the events of one room.
        clock: lets the server breathe.
    """

    reader: RoomReader
    states: StateReader
    make_checker: Callable[[str, str], Checker]
    clock: Clock

    async def plan(
        self,
        facts: RoomFacts,
        scope: Scope,
        deliver: Deliver,
        chosen: Collection[str],
        elsewhere: StatesElsewhere | None = None,
    ) -> Plan:
        """Works out a repair.

        Args:
            facts: the room as it is.
            scope: what the request asks for.
            deliver: how clients are to be told.
            chosen: the suspects in scope.
            elsewhere: whose state is taken before events that fail by ours.

        Raises:
            RepairError: that server does not answer, or not with what can be used.
        """
        expected = set(elsewhere.expected) if elsewhere else set()
        walk = await self._walk(facts, chosen, scope.force, elsewhere)
        if not walk.borrowed.keys() <= expected:
            # The state of what follows these events changes too, and was not looked at.
            walk = await self._walk(facts, chosen, scope.force, elsewhere)
        return await walk.plan(scope, deliver)

    async def verdicts(self, facts: RoomFacts, roots: Collection[str]) -> dict[str, Verdict]:
        """The verdicts on roots and soft-failed events, as a repair of the whole room gives them.

        Messages of the cascade are not judged: no verdict on a root depends on them.
        """
        everything = Union(facts.suspects, facts.soft_failed)
        walk = await self._walk(facts, everything, frozenset(), judge=roots)
        await walk.extremities()
        return await self.clock.in_thread(walk.verdicts_on, {*roots, *facts.soft_failed})

    async def _walk(
        self,
        facts: RoomFacts,
        chosen: Collection[str],
        force: frozenset[str],
        elsewhere: StatesElsewhere | None = None,
        judge: Collection[str] | None = None,
    ) -> _Walk:
        checker = self.make_checker(facts.room_id, facts.room_version)
        walk = _Walk(self, checker, facts, chosen, force, elsewhere)
        await walk.gather()
        await walk.run(judge)
        return walk


class _Walk:
    """One walk over the events that a repair may touch, parents first."""

    def __init__(
        self,
        planner: Planner,
        checker: Checker,
        facts: RoomFacts,
        chosen: Collection[str],
        force: frozenset[str],
        elsewhere: StatesElsewhere | None,
    ) -> None:
        self._elsewhere = elsewhere
        self._reader, self._states, self._clock = planner.reader, planner.states, planner.clock
        self._checker = checker
        self._facts = facts
        self._chosen = chosen
        self._force = force
        self._soft_failed = {i: n for i, n in facts.soft_failed.items() if i in chosen}
        self._held_back: dict[str, tuple[StateRef | None, bool]] = {}
        self._book = StateBook()
        self._others = NodeTable()
        self._nodes = Union(facts.suspects, self._others)
        self._groups: dict[str, int] = {}
        self._after: dict[str, StateRef] = {}
        self._followed: set[str] = set()
        self._merged: dict[frozenset[StateRef], StateRef] = {}
        self._same: dict[tuple[StateRef, StateRef], bool] = {}
        self._entries: dict[tuple[int, StateKey], str | None] = {}
        self._tips = set(facts.extremities - facts.bad_extremities)
        self._steps = Steps(Union(facts.suspects, self._others, facts.unindexed))
        self._order_of: dict[str, int] = {}
        self._let_through: dict[str, Verdict] = {}
        self.borrowed: dict[str, BorrowedState] = {}

    async def gather(self) -> None:
        """Collects the suspects and the accepted events whose state may change with them."""
        facts = self._facts
        frontier = await self._clock.in_thread(self._frontier)
        while batch := frontier.take(_BATCH):
            found = await self._reader.accepted_children(batch)
            for node in chain.from_iterable(found.values()):
                self._add(node)
            await self._clock.in_thread(
                frontier.add, [n.event_id for n in chain.from_iterable(found.values())]
            )
            await self._clock.breathe()
        self._followed = await self._reader.followed(Union(facts.suspects, self._soft_failed))

    def _frontier(self) -> Frontier:
        """Where to look for accepted events: behind all that has, or is in, another state."""
        facts = self._facts
        for nodes in (self._soft_failed, facts.stale, facts.unfinished):
            for node in nodes.values():
                self._add(node)
        frontier = Frontier(NodeTable.of(facts.suspects).followers())
        frontier.add(
            node.event_id
            for node in facts.suspects.values()
            if node.key is not None and node.event_id in self._chosen
        )
        frontier.add(facts.stale)
        frontier.add(facts.unfinished)
        if self._elsewhere:
            frontier.add(i for i in self._elsewhere.expected if i in self._nodes)
        return frontier

    def _add(self, node: Node) -> None:
        if node.event_id not in self._facts.suspects:
            self._others.add(node)

    async def run(self, judge: Collection[str] | None) -> None:
        """Walks the events.

        Args:
            judge: the events to judge, beside all state events; `None` for all.
        """
        nodes = self._nodes if self._others else self._facts.suspects
        for event_ids in _batches(await self._clock.in_thread(ids_in_order, nodes), _BATCH):
            batch = [nodes[event_id] for event_id in event_ids]
            wanted = {p for n in batch for p in (*n.prev_event_ids, n.event_id)}
            self._groups = await self._reader.state_groups(wanted | self._facts.extremities)
            judged = [
                n
                for n in batch
                if n.event_id in self._chosen
                and n.event_id not in self._soft_failed
                and (judge is None or n.event_id in judge or n.key is not None)
            ]
            await self._checker.load(judged)
            to_judge = {n.event_id for n in judged}
            for node in batch:
                await self._clock.breathe()
                if node.event_id in self._facts.suspects:
                    await self._visit_suspect(node, node.event_id in to_judge)
                else:
                    await self._visit_accepted(node)

    async def _visit_suspect(self, node: Node, judge: bool) -> None:
        before = None if node.outlier else await self._state_before(node)
        if node.event_id not in self._chosen:
            if node.damaged:
                before = self._groups.get(node.event_id)
                self._set_after(node, before, False)
            else:
                await self._stays_rejected(node, before)
            return
        if not judge:
            self._set_after(node, before, False)
            # Else what it follows would stay a tip for ever, beside all that come later.
            if not self._tips.isdisjoint(node.prev_event_ids):
                self._move_tips(node)
            return
        verdict = await self._judge(node, before)
        state = None
        if before is not None and verdict.check is Check.STATE_BEFORE:
            before, verdict, state = await self._judge_by_theirs(node, before, verdict)
        self._checker.decide(node.event_id, verdict.accepted)
        action = Action.RECEIVE if verdict.accepted else Action.REJECT
        self._steps.add(node, action, verdict, state_before=state)
        if verdict.accepted or node.damaged:
            self._set_after(node, before, verdict.accepted)
        else:
            await self._stays_rejected(node, before)
        if verdict.accepted and not verdict.soft_failed and not node.outlier:
            self._move_tips(node)

    def _move_tips(self, node: Node) -> None:
        self._tips.difference_update(node.prev_event_ids)
        if node.event_id not in self._followed:
            self._tips.add(node.event_id)

    async def _stays_rejected(self, node: Node, before: StateRef | None) -> None:
        """Keeps the state before a rejected event right, for what follows it takes it over."""
        self._set_after(node, before, False)
        stored = self._groups.get(node.event_id)
        if before is None or stored is None or await self._equal(stored, before):
            return
        self._steps.add(node, Action.RESTATE, _AS_REJECTED)

    async def _judge(self, node: Node, before: StateRef | None) -> Verdict:
        force = node.event_id in self._force
        if node.outlier:
            return await self._checker.check(node, None, force=force)
        if before is None:
            return NO_STATE
        verdict = await self._checker.check(node, self._lookup(before), force=force)
        if verdict.accepted and not force and await self._soft_fails(node, before):
            return attr.evolve(verdict, soft_failed=True)
        return verdict

    async def _judge_by_theirs(
        self, node: Node, before: StateRef, verdict: Verdict
    ) -> tuple[StateRef, Verdict, StateIds | None]:
        """Judges an event that fails by our state once more, by that of another server.

        Returns:
            The state before the event, and the verdict by it; and that state, if it is the
            other server's, which it is only where the event passes by it.
        """
        if self._elsewhere is None:
            return before, verdict, None
        ours = await self.full(before)
        theirs = await self._elsewhere.state_before(node, ours, self._checker)
        if theirs is None:
            return before, verdict, None
        borrowed = borrow(node.event_id, ours, theirs)
        delta = {(c.type, c.state_key): c.after for c in borrowed.difference}
        ref = self._book.derive(before, delta)
        self.borrowed[node.event_id] = borrowed
        bad = await self._checker.not_accepted([i for i in delta.values() if i is not None])
        again = (
            attr.evolve(verdict, error=f"it holds {', '.join(bad)}, which is rejected here")
            if bad
            else await self._judge(node, ref)
        )
        if again.accepted:
            return ref, again, theirs
        del self.borrowed[node.event_id]
        error = f"By the state before it on {self._elsewhere.server}: {again.error}"
        return before, attr.evolve(again, error=error), None

    async def _soft_fails(self, node: Node, before: StateRef) -> bool:
        """Check 6 against what this server knew when it stored the event.

        Mirrors `FederationEventHandler._check_for_soft_fail` (read in Synapse 1.151.0
        and 1.163.2). State that arrived here after the event does not count: without
        the error the event would have been received before it.
        """
        if self._tips == set(node.prev_event_ids):
            return False
        refs = {ref for tip in self._tips if (ref := self._ref(tip)) is not None}
        if node.event_id in self.borrowed:
            # What this server took for the current state is part of the error.
            refs.add(before)
        if refs <= {before}:
            return False
        keys = self._checker.auth_keys(node)
        known = await self._lookup(before)(keys)
        current = known
        for ref in refs:
            if await self._lookup(ref)(keys) != known:
                current = await self._lookup(await self._merge(refs))(keys)
                break
        changed = [i for k, i in current.items() if known.get(k) != i]
        if not changed and current.keys() == known.keys():
            return False
        self._order_of.update(await self._orderings(changed))
        here_before = {
            key: found
            for key, found in current.items()
            if self._order_of.get(found, node.stream_ordering) < node.stream_ordering
        }
        then = {**known, **here_before}

        async def lookup(wanted: Collection[StateKey]) -> StateIds:
            return {k: then[k] for k in wanted if k in then}

        return await self._checker.soft_fails(node, lookup) is not None

    async def _orderings(self, event_ids: Iterable[str]) -> dict[str, int]:
        unknown = []
        found = {}
        for event_id in event_ids:
            if event_id in self._nodes:
                found[event_id] = self._nodes[event_id].stream_ordering
            elif event_id not in self._order_of:
                unknown.append(event_id)
        if unknown:
            found.update(await self._reader.stream_orderings(unknown))
        return found

    async def _visit_accepted(self, node: Node) -> None:
        if node.event_id in self._soft_failed:
            before = await self._state_before(node)
            self._held_back[node.event_id] = before, await self._is_restated(node)
            self._steps.add(node, Action.RECEIVE, ACCEPTED)
        elif await self._is_restated(node):
            self._steps.add(node, Action.RESTATE, ACCEPTED)

    async def _is_restated(self, node: Node) -> bool:
        """Finds the state after an accepted event, and whether it is not the stored one."""
        stored = self._groups.get(node.event_id)
        if stored is None or node.outlier:
            return False
        touched = any(p in self._after for p in node.prev_event_ids)
        borrowed = node.event_id in self._facts.borrowed
        if borrowed or (not touched and node.event_id not in self._facts.stale):
            self._after[node.event_id] = stored
            return False
        before = await self._state_before(node)
        if before is None:
            self._after[node.event_id] = stored
            return False
        after = before if node.key is None else self._book.derive(before, {node.key: node.event_id})
        if await self._equal(stored, after):
            self._after[node.event_id] = stored
            return False
        self._after[node.event_id] = after
        return True

    def _set_after(self, node: Node, before: StateRef | None, accepted: bool) -> None:
        if before is None:
            return
        key = node.key
        if accepted and key is not None:
            self._after[node.event_id] = self._book.derive(before, {key: node.event_id})
        else:
            self._after[node.event_id] = before

    async def _state_before(self, node: Node) -> StateRef | None:
        refs: set[StateRef] = set()
        incomplete = not node.prev_event_ids and node.type != "m.room.create"
        for parent in node.prev_event_ids:
            ref = self._ref(parent)
            if ref is None:
                incomplete = True
            else:
                refs.add(ref)
        if incomplete:
            # Synapse asked another server for the state at the gap when it received the
            # event, and that is what it stored.
            stored = self._groups.get(node.event_id)
            if stored is None:
                return None
            refs.add(stored)
        if not refs:
            # Only m.room.create has nothing before it.
            return self._groups.get(node.event_id)
        return await self._merge(refs)

    def _ref(self, event_id: str) -> StateRef | None:
        ref = self._after.get(event_id)
        return self._groups.get(event_id) if ref is None else ref

    def _lookup(self, ref: StateRef) -> StateLookup:
        async def lookup(keys: Collection[StateKey]) -> StateIds:
            group, found = self._book.resolve(ref, keys)
            missing = [k for k in keys if k not in found and (group, k) not in self._entries]
            if missing:
                entries = await self._states.entries(group, missing)
                for key in missing:
                    self._entries[group, key] = entries.get(key)
            for key in keys:
                if key not in found:
                    found[key] = self._entries[group, key]
            return {k: v for k, v in found.items() if v is not None}

        return lookup

    async def full(self, ref: StateRef) -> StateIds:
        """All entries of a state."""
        group, found = self._book.resolve(ref)
        state = {**await self._states.full(group), **found}
        return {k: v for k, v in state.items() if v is not None}

    async def _merge(self, refs: Collection[StateRef]) -> StateRef:
        distinct = frozenset(refs)
        if len(distinct) == 1:
            return next(iter(distinct))
        if distinct not in self._merged:
            ordered = sorted(distinct)
            states = [await self.full(ref) for ref in ordered]
            resolved = await self._states.resolve(
                self._facts.room_id, self._facts.room_version, states, self._checker
            )
            base = states[0]
            delta: dict[StateKey, str | None] = {
                k: v for k, v in resolved.items() if base.get(k) != v
            }
            delta.update({k: None for k in base if k not in resolved})
            self._merged[distinct] = self._book.derive(ordered[0], delta)
        return self._merged[distinct]

    async def _equal(self, one: StateRef, other: StateRef) -> bool:
        if one == other:
            return True
        if (one, other) not in self._same:
            self._same[one, other] = await self.full(one) == await self.full(other)
        return self._same[one, other]

    async def _nearest_accepted(self) -> frozenset[str]:
        """Where the room goes on if none of its forward extremities can be one."""
        suspects = self._facts.suspects
        seen = set(self._facts.bad_extremities)
        stack = list(seen)
        while stack:
            node = suspects.get(stack.pop())
            before = set(node.prev_event_ids if node else ()) - seen
            seen |= before
            stack += before
        accepted = seen - suspects.keys()
        newest = await self._reader.newest_accepted(self._facts.room_id)
        for candidates in (accepted, set(newest)):
            standing = candidates & (await self._reader.state_groups(candidates)).keys()
            ends = standing - await self._reader.followed(standing)
            if ends:
                return frozenset(ends)
        return self._facts.extremities

    async def extremities(self) -> frozenset[str]:
        """The forward extremities that the room has then; decides on the soft-failed events."""
        if self._held_back:
            waiting = [(self._nodes[i], before) for i, (before, _) in self._held_back.items()]
            judge = SoftFailureJudge(
                self._facts,
                self._reader,
                self._checker,
                self._clock,
                self._after_all,
                self._lookup,
                self._ends,
            )
            self._let_through = await judge.judge(waiting, self._steps.nodes(_may_be_extremity))
            self._steps = await self._clock.in_thread(self._steps.decided, self._decisions())
            self._held_back = {}
        return await self._ends(self._steps.nodes(_may_be_extremity))

    def _decisions(self) -> dict[str, tuple[Action, Verdict] | None]:
        """What is done with the soft-failed events that are not let through."""
        return {
            event_id: (Action.RESTATE, ACCEPTED) if restated else None
            for event_id, (_, restated) in self._held_back.items()
            if not self._let_through[event_id].accepted
        }

    def verdicts_on(self, event_ids: Collection[str]) -> dict[str, Verdict]:
        """The verdicts on some of the events that were judged."""
        judged = self._steps.some(lambda kind: kind.judges)
        found = {s.node.event_id: s.verdict for s in judged if s.node.event_id in event_ids}
        return {**found, **self._let_through}

    async def _ends(self, received: Iterable[Node]) -> frozenset[str]:
        facts = self._facts
        extremities: frozenset[str] = await self._clock.in_thread(
            forward_extremities,
            facts.extremities,
            facts.bad_extremities,
            received,
            self._followed,
        )
        if not extremities and facts.extremities:
            extremities = await self._nearest_accepted()
        return extremities

    async def _after_all(self, tips: Collection[str]) -> StateRef | None:
        """The state after some events together; `None` where none is known."""
        self._groups = await self._reader.state_groups(tips)
        refs = {ref for tip in tips if (ref := self._ref(tip)) is not None}
        return await self._merge(refs) if refs else None

    async def plan(self, scope: Scope, deliver: Deliver) -> Plan:
        """The plan that the walk amounts to."""
        facts = self._facts
        extremities = await self.extremities()
        steps = self._steps
        ref = await self._after_all(extremities)
        final = facts.current_state if ref is None else await self.full(ref)

        history = await self._clock.in_thread(
            delivered_as_history, steps.nodes(_receives), deliver, final, extremities
        )
        await self._clock.in_thread(steps.backfill, history)
        dealt_with: set[str] = await self._clock.in_thread(set, steps.event_ids)
        for node in facts.unindexed.values():
            if node.event_id not in dealt_with:
                steps.add(node, Action.INDEX, ACCEPTED)
        return Plan(
            room_id=facts.room_id,
            fingerprint=await self._clock.in_thread(
                facts.fingerprint, scope, deliver, tuple(self.borrowed.values())
            ),
            steps=steps,
            state_changes=tuple(state_changes(facts.current_state, final)),
            extremities=extremities,
            mend_extremities=not steps.any(_receives) and extremities != facts.extremities,
            borrowed=tuple(self.borrowed.values()),
            gaps=await self._clock.in_thread(facts.gaps_for, scope, steps.nodes(_receives)),
        )


def _receives(kind: Kind) -> bool:
    return kind.action is Action.RECEIVE


def _may_be_extremity(kind: Kind) -> bool:
    return _receives(kind) and not kind.verdict.soft_failed and not kind.outlier


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
