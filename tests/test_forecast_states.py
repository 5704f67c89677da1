"""The states at an old server's events, where it accepted other events than this server would."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from synapse_rejection_repair.adapter.forecast_states import ForecastStates
from synapse_rejection_repair.domain.model import StateIds, StateKey
from synapse_rejection_repair.domain.source import Position, SourceEvent

LEVELS, TOPIC, NAME = ("m.room.power_levels", ""), ("m.room.topic", ""), ("m.room.name", "")


class Old:
    """A source that has some state groups, and events at them."""

    def __init__(self, groups: dict[int, StateIds]) -> None:
        self.groups = groups
        self.events_by_id: dict[str, SourceEvent] = {}
        self.resolved: list[list[StateIds]] = []

    def event(
        self,
        event_id: str,
        group: int | None,
        *prevs: str,
        key: StateKey | None = None,
        rejected: bool = False,
    ) -> SourceEvent:
        pdu: dict[str, Any] = {"type": "m.room.message", "prev_events": list(prevs)}
        if key is not None:
            pdu.update(type=key[0], state_key=key[1])
        event = SourceEvent(event_id, Position(1, 1), pdu, group, rejected)
        self.events_by_id[event_id] = event
        return event

    async def events(self, room_id: str, event_ids: Collection[str]) -> dict[str, SourceEvent]:
        return {i: self.events_by_id[i] for i in event_ids if i in self.events_by_id}

    async def entries(self, group: int, keys: Collection[StateKey]) -> StateIds:
        return {k: v for k, v in self.groups[group].items() if k in keys}

    async def state(self, group: int) -> StateIds:
        return self.groups[group]

    async def resolve(self, states: Sequence[StateIds]) -> StateIds:
        self.resolved.append([*states])
        return {k: max(s[k] for s in states if k in s) for k in {k for s in states for k in s}}


def test_states_follow_from_what_is_accepted_here() -> None:
    old = Old({1: {LEVELS: "$1", TOPIC: "$t"}, 2: {LEVELS: "$1", TOPIC: "$t", NAME: "$n"}})
    states = ForecastStates(old, "!r:x", old.resolve)  # type: ignore[arg-type]
    keys = [LEVELS, TOPIC, NAME]

    async def run() -> None:
        async def before(event: SourceEvent, group: int | None) -> StateIds:
            ref = await states.before(event, group)
            states.follow(event, ref, group, accepted=True)
            return {} if ref is None else await states.entries(ref, keys)

        # What both accept: the source's own groups, and nothing is kept.
        assert await before(old.event("$a", 1), 1) == old.groups[1]
        assert [states.differ] == [False]
        # Rejected there: what follows has it in its state, also where that was rejected as well.
        root = old.event("$2", 1, "$a", key=LEVELS, rejected=True)
        assert await before(root, 1) == old.groups[1]
        assert [states.differ] == [True]
        said = old.event("$b", 1, "$2", rejected=True)
        assert await before(said, 1) == {LEVELS: "$2", TOPIC: "$t"}
        # Beside it the source goes on, to what is merged then.
        assert await before(old.event("$n", 2, "$a", key=NAME), 1) == old.groups[1]
        for merge in ("$c", "$d"):
            event = old.event(merge, 2, "$b", "$n", rejected=True)
            assert await before(event, 2) == {LEVELS: "$2", TOPIC: "$t", NAME: "$n"}
        assert len(old.resolved) == 1
        # Rejected here as well, and accepted there alone: neither is in the state.
        for event_id, rejected in (("$t1", True), ("$t2", False)):
            event = old.event(event_id, 2, "$c", key=TOPIC, rejected=rejected)
            states.follow(event, await states.before(event, 2), 2, accepted=False)
            after = await before(old.event(f"{event_id}x", 2, event_id), 2)
            assert after == {LEVELS: "$2", TOPIC: "$t", NAME: "$n"}
        # At a gap it is the source's own state.
        states.leave_out("$left")
        for prevs in (("$c", "$left"), ("$c", "$unknown")):
            assert await before(old.event("$g", 2, *prevs), 2) == old.groups[2]
        assert await before(old.event("$h", None, "$unknown"), None) == {}

    asyncio.run(run())
