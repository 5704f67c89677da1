"""Which soft-failed events would not have been, had this server not erred."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

import attr

from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.model import ACCEPTED, Check, Node, Outcome, Verdict
from synapse_rejection_repair.domain.sorting import sorted_in_pieces
from synapse_rejection_repair.domain.state import StateRef
from synapse_rejection_repair.domain.tips import FOREVER, Spell, Tips, with_received
from synapse_rejection_repair.ports import Checker, Clock, DagReader, StateLookup

_BATCH = 200
"""How many events are read at a time."""

_Waiting = tuple[Node, StateRef | None]
"""A soft-failed event, with the state before it."""

_BEFORE = "It was soft-failed before anything was wrong with the room here"
_SPAM = "A policy server or a module took it for spam when it came"
_BANNED = "It would have passed when it arrived, but its sender is banned today"


@attr.s(frozen=True, slots=True, auto_attribs=True)
class SoftFailureJudge:
    """Judges soft-failed events by the state that the room would have had when they arrived.

    That is check 6, as `FederationEventHandler._check_for_soft_fail` makes it (read in Synapse
    1.151.0 and 1.163.2): whoever was banned then stays unheard, whatever has become of it. So
    does whoever is banned today.

    Attributes:
        facts: the room as it is.
        reader: the database.
        checker: the checks, which know of all that the repair accepts.
        clock: lets the server breathe.
        state_after: the state after some events, as the repair makes it.
        lookup: answers from a state.
        ends: the forward extremities, given what is accepted of all that was not.
    """

    facts: RoomFacts
    reader: DagReader
    checker: Checker
    clock: Clock
    state_after: Callable[[Collection[str]], Awaitable[StateRef | None]]
    lookup: Callable[[StateRef], StateLookup]
    ends: Callable[[Iterable[Node]], Awaitable[frozenset[str]]]

    async def judge(
        self, events: Sequence[_Waiting], received: Iterable[Node]
    ) -> dict[str, Verdict]:
        """The verdict on each event: accepted are those to be let through.

        Args:
            events: events that are soft-failed, or may be, each with the state before it.
            received: the events that the repair accepts, without outliers; may be gone through
                more than once, and is in threads.
        """
        in_time = _InTime(self.facts, received, frozenset(node.event_id for node, _ in events))
        verdicts = {
            node.event_id: _stays(self.facts.withheld.get(node.event_id, _BEFORE))
            for node, _ in events
        }
        waiting, ids = await self.clock.in_thread(_in_order, self.facts, events, in_time)
        if waiting:
            verdicts.update(await self._judge_all(waiting, ids, in_time))
            await self._silence_banned(verdicts, waiting, in_time)
        return verdicts

    async def _judge_all(
        self, waiting: Sequence[_Waiting], ids: Collection[str], received: Iterable[Node]
    ) -> dict[str, Verdict]:
        verdicts: dict[str, Verdict] = {}
        positions = [node.stream_ordering for node, _ in waiting]
        spells = await self.reader.spells(self.facts, positions, ids)
        tips = await self.clock.in_thread(_tips, self.facts, spells, received)
        for start in range(0, len(waiting), _BATCH):
            batch = waiting[start : start + _BATCH]
            await self.checker.load([node for node, _ in batch])
            for node, before in batch:
                await self.clock.breathe()
                while not tips.reach(node.stream_ordering):
                    await self.clock.breathe()
                verdict = await self._judge(node, before, tips.at(node.stream_ordering))
                verdicts[node.event_id] = verdict
                if verdict.accepted:
                    followed = spells.get(node.event_id)
                    tips.accept(node, followed.until if followed else FOREVER)
        return verdicts

    async def _judge(self, node: Node, before: StateRef | None, tips: frozenset[str]) -> Verdict:
        if before is None:
            return _stays("The state before it is not known here")
        verdict = await self.checker.check(node, self.lookup(before), force=False)
        if verdict.soft_failed:
            return _stays(_SPAM)
        if not verdict.accepted or tips == {*node.prev_event_ids}:
            return verdict
        state = await self.state_after(tips)
        if state is None:
            return _stays("The room's state when it arrived is not known here")
        error = await self.checker.soft_fails(node, self.lookup(state))
        return ACCEPTED if error is None else _stays(error)

    async def _silence_banned(
        self,
        verdicts: dict[str, Verdict],
        waiting: Sequence[_Waiting],
        received: Iterable[Node],
    ) -> None:
        passed = [node for node, _ in waiting if verdicts[node.event_id].accepted]
        if not passed:
            return
        state = await self.state_after(await self.ends(chain(received, passed)))
        for node in passed:
            await self.clock.breathe()
            if state is not None and await self.checker.banned(node.sender, self.lookup(state)):
                verdicts[node.event_id] = _stays(_BANNED)


@attr.s(frozen=True, slots=True, auto_attribs=True)
class _InTime(Iterable[Node]):
    """What the repair accepts, at the positions at which it arrived, without soft-failed events.

    Made when it is gone through, for there may be a hundred thousand.
    """

    facts: RoomFacts
    received: Iterable[Node]
    soft_failed: Collection[str]

    def __iter__(self) -> Iterator[Node]:
        return (
            _as_it_arrived(self.facts, node)
            for node in self.received
            if node.event_id not in self.soft_failed
        )


def _as_it_arrived(facts: RoomFacts, node: Node) -> Node:
    first = facts.arrived.get(node.event_id)
    return node if first is None else attr.evolve(node, stream_ordering=first)


def _in_order(
    facts: RoomFacts, events: Sequence[_Waiting], received: Iterable[Node]
) -> tuple[list[_Waiting], set[str]]:
    """The events that may be let through, in the order of their arrival; and all ids there are."""
    ids: set[str] = set()
    erred = min(facts.arrived.values(), default=FOREVER)
    for node in received:
        ids.add(node.event_id)
        erred = min(erred, node.stream_ordering)
    possible = [
        (_as_it_arrived(facts, node), before)
        for node, before in events
        if node.event_id not in facts.withheld
    ]
    order = sorted_in_pieces(
        (node.stream_ordering, place)
        for place, (node, _) in enumerate(possible)
        # What was rejected was wronged itself, however early.
        if node.stream_ordering > erred or node.rejected is not None
    )
    waiting = [possible[place] for _, place in order]
    ids.update(node.event_id for node, _ in waiting)
    return waiting, ids


def _tips(facts: RoomFacts, spells: Mapping[str, Spell], received: Iterable[Node]) -> Tips:
    suspects = facts.suspects
    standing = {
        i
        for i in spells
        if i not in facts.soft_failed and (i not in suspects or suspects[i].rejected is None)
    }
    return Tips(with_received(spells, standing, received))


def _stays(reason: str) -> Verdict:
    return Verdict(Outcome.REJECT, Check.CURRENT_STATE, reason)
