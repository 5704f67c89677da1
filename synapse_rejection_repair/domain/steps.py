"""What a plan does, step by step, without an object for each of a hundred thousand steps."""

from __future__ import annotations

import enum
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import overload

import attr

from synapse_rejection_repair.domain.model import Node, Outcome, StateIds, Verdict


class Action(str, enum.Enum):
    """What a step does with one event."""

    RECEIVE = "receive"
    """Hand the event to Synapse anew, as accepted."""
    REJECT = "reject"
    """Leave a rejected event rejected; mark a damaged one rejected again, if it can be judged."""
    RESTATE = "restate"
    """Recompute the state at a stored event whose ancestors have changed."""
    INDEX = "index"
    """Write an accepted event's missing search row."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Step:
    """What the plan does with one event.

    Attributes:
        node: the event.
        action: what is done with it.
        verdict: the outcome of its checks (of a restated event: as it stands).
        backfill: it is stored as history, so that no syncing client is sent it.
        state_before: the state before it that was borrowed from another server; `None` where
            it follows from the events before it.
    """

    node: Node
    action: Action
    verdict: Verdict
    backfill: bool = False
    state_before: StateIds | None = None

    @property
    def kind(self) -> Kind:
        """What it has in common with others."""
        node = self.node
        return Kind(
            self.action, self.verdict, self.backfill, node.damaged, node.outlier, node.soft_failed
        )


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Kind:
    """What many steps have in common.

    Attributes:
        action: as that of the step.
        verdict: likewise.
        backfill: likewise.
        damaged: whether the event is.
        outlier: likewise.
        soft_failed: likewise.
    """

    action: Action
    verdict: Verdict
    backfill: bool
    damaged: bool
    outlier: bool
    soft_failed: bool

    @property
    def receives(self) -> bool:
        """Whether an event is accepted."""
        return self.action is Action.RECEIVE

    @property
    def extends(self) -> bool:
        """Whether an event is accepted that can be a forward extremity."""
        return self.receives and not self.verdict.soft_failed and not self.outlier

    @property
    def judges(self) -> bool:
        """Whether an event is judged: the answer of a dry run lists these steps."""
        return self.action in (Action.RECEIVE, Action.REJECT)

    @property
    def stores(self) -> bool:
        """Whether an event is stored anew."""
        return self.receives or (
            self.action is Action.REJECT
            and self.damaged
            and self.verdict.outcome is not Outcome.UNKNOWN
        )

    @property
    def idle(self) -> bool:
        """Whether nothing is done."""
        return self.action is Action.REJECT and not self.stores


class Steps(Sequence[Step]):
    """Steps in their order, as a `NodeTable` keeps nodes: made when they are asked for.

    Args:
        nodes: the events by id, those of the steps among them.
    """

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._nodes = nodes
        self._ids: list[str] = []
        self._which = array("i")
        self._numbers: dict[Kind, int] = {}
        self._kinds: list[Kind] = []
        self._states: dict[str, StateIds] = {}

    def add(
        self,
        node: Node,
        action: Action,
        verdict: Verdict,
        backfill: bool = False,
        state_before: StateIds | None = None,
    ) -> None:
        """Adds a step to the end."""
        if state_before is not None:
            self._states[node.event_id] = state_before
        self._ids.append(node.event_id)
        self._which.append(self._number(Step(node, action, verdict, backfill).kind))

    def backfill(self, event_ids: Collection[str]) -> None:
        """Has events that are dealt with stored as history."""
        for place, event_id in enumerate(self._ids):
            if event_id in event_ids:
                kind = self._kinds[self._which[place]]
                self._which[place] = self._number(attr.evolve(kind, backfill=True))

    def decided(self, decisions: Mapping[str, tuple[Action, Verdict] | None]) -> Steps:
        """The steps with another action and verdict for some events, and without others.

        Args:
            decisions: what is done with those events instead, by id; `None` for nothing.
        """
        steps = Steps(self._nodes)
        steps._states = self._states
        for place, event_id in enumerate(self._ids):
            kind = self._kinds[self._which[place]]
            if event_id in decisions:
                decision = decisions[event_id]
                if decision is None:
                    continue
                kind = attr.evolve(kind, action=decision[0], verdict=decision[1])
            steps._ids.append(event_id)
            steps._which.append(steps._number(kind))
        return steps

    def number_of(self, wanted: Callable[[Kind], bool]) -> int:
        """How many steps there are of some kind."""
        chosen = [wanted(kind) for kind in self._kinds]
        return sum(map(chosen.__getitem__, self._which))

    def any(self, wanted: Callable[[Kind], bool]) -> bool:
        """Whether there is a step of some kind."""
        return next(self._selected(wanted), None) is not None

    def some(self, wanted: Callable[[Kind], bool]) -> Iterator[Step]:
        """The steps of some kind."""
        return map(self._at, self._selected(wanted))

    def nodes(self, wanted: Callable[[Kind], bool]) -> Iterable[Node]:
        """The events of the steps of some kind, to be gone through as often as it takes."""
        return _NodesOf(self, wanted)

    def verdicts_on(self, event_ids: Collection[str]) -> dict[str, Verdict]:
        """The verdicts on those of some events that are judged."""
        judged = self.some(lambda kind: kind.judges)
        return {s.node.event_id: s.verdict for s in judged if s.node.event_id in event_ids}

    @property
    def event_ids(self) -> Sequence[str]:
        """The ids of the events, step by step."""
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, place: int) -> Step: ...

    @overload
    def __getitem__(self, place: slice) -> list[Step]: ...

    def __getitem__(self, place: int | slice) -> Step | list[Step]:
        if isinstance(place, slice):
            return [self._at(p) for p in range(*place.indices(len(self)))]
        return self._at(range(len(self))[place])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Steps):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _selected(self, wanted: Callable[[Kind], bool]) -> Iterator[int]:
        chosen = [wanted(kind) for kind in self._kinds]
        return compress(range(len(self)), map(chosen.__getitem__, self._which))

    def _at(self, place: int) -> Step:
        kind = self._kinds[self._which[place]]
        event_id = self._ids[place]
        state_before = self._states.get(event_id)
        node = self._nodes[event_id]
        return Step(node, kind.action, kind.verdict, kind.backfill, state_before)

    def _number(self, kind: Kind) -> int:
        number = self._numbers.get(kind)
        if number is None:
            number = self._numbers[kind] = len(self._kinds)
            self._kinds.append(kind)
        return number


class _NodesOf(Iterable[Node]):
    def __init__(self, steps: Steps, wanted: Callable[[Kind], bool]) -> None:
        self._steps = steps
        self._wanted = wanted

    def __iter__(self) -> Iterator[Node]:
        return (step.node for step in self._steps.some(self._wanted))


def as_steps(steps: Iterable[Step]) -> Steps:
    """The same steps; themselves, if they are already kept so."""
    if isinstance(steps, Steps):
        return steps
    listed = list(steps)
    made = Steps({step.node.event_id: step.node for step in listed})
    for step in listed:
        made.add(step.node, step.action, step.verdict, step.backfill, step.state_before)
    return made
