"""The passes of a repair: when one makes the room wait, and when another would be in vain."""

from __future__ import annotations

import attr

from synapse_rejection_repair.domain.gaps import Gap
from synapse_rejection_repair.domain.plan import Plan

_FREE_PASSES = 2
"""How many passes let others write to the room between planning and the plan's end."""

_OVERTAKEN = 200
"""How many events are stored at most while a room's other writes wait."""

_SHORT_MS = 5000
_PATIENT_PASSES = 10
"""A plan that takes longer, in milliseconds, is not made while the room's other writes wait,
unless so many passes have not been enough.
"""

_MOST_FETCHES = 10
"""How often a job asks other servers for what it finds missing."""

_FRUITLESS_PASSES = 3
"""After how many passes without a single step carried out a job gives up."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Passes:
    """How a job has fared so far.

    Attributes:
        made: how many plans it has carried out.
        fruitless: how many of them have changed nothing, since one did.
        last: the last of them.
        fetches: how often it has asked other servers for missing events.
        asked: the events that it has asked for.
    """

    made: int = 0
    fruitless: int = 0
    last: Plan | None = None
    fetches: int = 0
    asked: frozenset[str] = frozenset()

    def overtakes(self, plan: Plan, took_ms: int) -> bool:
        """Whether the next pass is made while the room's other writes wait.

        Args:
            plan: what there is left to do.
            took_ms: how long it took to find that out, in milliseconds.
        """
        patient = self.made < (_FREE_PASSES if took_ms < _SHORT_MS else _PATIENT_PASSES)
        return not patient and plan.steps.number_of(lambda kind: kind.stores) <= _OVERTAKEN

    def after(self, plan: Plan, carried_out: int) -> Passes:
        """How it has fared after one more.

        Args:
            plan: what was carried out.
            carried_out: how many of its steps.
        """
        same = self.last is not None and self.last.steps == plan.steps
        fruitless = 0 if carried_out and not same else self.fruitless + 1
        return attr.evolve(self, made=self.made + 1, fruitless=fruitless, last=plan)

    @property
    def in_vain(self) -> bool:
        """Whether to give up."""
        return self.fruitless >= _FRUITLESS_PASSES

    def still_missing(self, plan: Plan) -> list[Gap]:
        """The gaps that other servers are to be asked for yet."""
        if self.fetches >= _MOST_FETCHES:
            return []
        return [gap for gap in plan.gaps if gap.event_id not in self.asked]

    def asking(self, gaps: list[Gap]) -> Passes:
        """How it has fared once it has asked for them."""
        asked = self.asked.union(gap.event_id for gap in gaps)
        return attr.evolve(self, fetches=self.fetches + 1, asked=asked)
