"""Which soft-failed events would not have been, had this server not erred."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

import attr

from synapse_rejection_repair.domain.model import ACCEPTED, Check, Node, Outcome, Verdict
from synapse_rejection_repair.domain.plan import RoomFacts
from synapse_rejection_repair.domain.state import StateRef
from synapse_rejection_repair.domain.tips import FOREVER, Tips, with_received
from synapse_rejection_repair.ports import Checker, Clock, RoomReader, StateLookup

_BATCH = 200
"""How many events are read at a time."""

_BEFORE = "It was soft-failed before anything was wrong with the room here"
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
    reader: RoomReader
    checker: Checker
    clock: Clock
    state_after: Callable[[Collection[str]], Awaitable[StateRef | None]]
    lookup: Callable[[StateRef], StateLookup]
    ends: Callable[[Sequence[Node]], Awaitable[frozenset[str]]]

    async def judge(
        self, events: Sequence[tuple[Node, StateRef | None]], received: Sequence[Node]
    ) -> dict[str, Verdict]:
        """The verdict on each event: accepted are those to be let through.

        Args:
            events: soft-failed events, each with the state before it.
            received: the events that the repair accepts, without outliers and soft-failed ones.
        """
        verdicts = {
            node.event_id: _stays(self.facts.withheld.get(node.event_id, _BEFORE))
            for node, _ in events
        }
        in_time = [self._as_it_arrived(node) for node in received]
        erred = min(
            (*self.facts.arrived.values(), *(n.stream_ordering for n in in_time)), default=FOREVER
        )
        waiting = sorted(
            (
                (self._as_it_arrived(node), before)
                for node, before in events
                if node.event_id not in self.facts.withheld
            ),
            key=lambda one: one[0].stream_ordering,
        )
        waiting = [one for one in waiting if one[0].stream_ordering > erred]
        if waiting:
            verdicts.update(await self._judge_all(waiting, in_time))
            await self._silence_banned(verdicts, waiting, received)
        return verdicts

    def _as_it_arrived(self, node: Node) -> Node:
        first = self.facts.arrived.get(node.event_id, node.stream_ordering)
        return attr.evolve(node, stream_ordering=first)

    async def _judge_all(
        self, waiting: Sequence[tuple[Node, StateRef | None]], received: Sequence[Node]
    ) -> dict[str, Verdict]:
        verdicts: dict[str, Verdict] = {}
        positions = [node.stream_ordering for node, _ in waiting]
        ids = {n.event_id for n in received} | {n.event_id for n, _ in waiting}
        spells = await self.reader.spells(self.facts, positions, ids)
        rejected = {i for i, n in self.facts.suspects.items() if n.rejected is not None}
        standing = spells.keys() - rejected - self.facts.soft_failed.keys()
        tips = Tips(with_received(spells, standing, received))
        for start in range(0, len(waiting), _BATCH):
            batch = waiting[start : start + _BATCH]
            await self.checker.load([node for node, _ in batch])
            for node, before in batch:
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
        waiting: Sequence[tuple[Node, StateRef | None]],
        received: Sequence[Node],
    ) -> None:
        passed = [node for node, _ in waiting if verdicts[node.event_id].accepted]
        if not passed:
            return
        state = await self.state_after(await self.ends([*received, *passed]))
        for node in passed:
            if state is not None and await self.checker.banned(node.sender, self.lookup(state)):
                verdicts[node.event_id] = _stays(_BANNED)


def _stays(reason: str) -> Verdict:
    return Verdict(Outcome.REJECT, Check.CURRENT_STATE, reason)
