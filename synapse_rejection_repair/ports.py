"""What the inner layers ask of the outer: the Protocols that `adapter` implements."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from synapse_rejection_repair.domain.affected import Behind
from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.listing import (
    Listing,
    Page,
    RejectionFilter,
    RejectionRow,
    RoomRow,
)
from synapse_rejection_repair.domain.model import Node, StateIds, StateKey, Verdict
from synapse_rejection_repair.domain.plan import Plan
from synapse_rejection_repair.domain.repair import RepairJob
from synapse_rejection_repair.domain.steps import Step
from synapse_rejection_repair.domain.tips import Spell

T = TypeVar("T")

StateLookup = Callable[[Collection[StateKey]], Awaitable[StateIds]]
"""Answers which events hold some entries of one state."""


class Clock(Protocol):
    """Time, and the courtesy of letting others have some."""

    def now_ms(self) -> int:
        """The time in milliseconds since the epoch."""

    async def pause(self, seconds: float = 0) -> None:
        """Lets everything else run, for at least that many seconds."""

    async def breathe(self) -> None:
        """Lets everything else run, if this task has held the reactor for long."""

    async def in_thread(self, func: Callable[..., T], *args: object) -> T:
        """Runs a pure function of much data in a thread."""

    def from_thread(self, func: Callable[[], None]) -> Callable[[], None]:
        """Gives what any thread may call to have a function called where everything else runs."""

    def begin(self, work: Callable[[], Awaitable[T]]) -> Awaitable[T]:
        """Begins some work at once; gives what to await its result by, which must be done."""


class ListingReader(Protocol):
    """Reads the lists that an admin pages through."""

    async def rooms(self, page: Page) -> Listing[RoomRow]:
        """The rooms with rejected events."""

    async def rejections(
        self, room_id: str, wanted: RejectionFilter, page: Page
    ) -> Listing[RejectionRow]:
        """A room's rejected events."""


class RoomReader(Protocol):
    """Reads what the database says of a room as a whole. Never writes."""

    async def require_room(self, room_id: str) -> str:
        """The identifier of the room's version.

        Raises:
            UnknownRoom: this server has never heard of the room.
            UnsupportedRoomVersion: this server does not know its version.
        """

    async def require_repairable(self, room_id: str) -> None:
        """Checks that a repair can work on the room.

        Raises:
            UnknownRoom: this server has never heard of the room.
            UnsupportedRoomVersion: the room's version is not known, or keeps its state in
                a DAG of its own (MSC4242).
            PartialState: the room's state is still being fetched.
            NotInRoom: no local user is joined.
        """

    async def unknown_events(self, room_id: str, event_ids: Collection[str]) -> list[str]:
        """Those of the ids that are no events of the room here."""

    async def position(self, room_id: str) -> int:
        """The stream ordering of the room's newest event."""

    async def forward_extremities(self, room_id: str) -> frozenset[str]:
        """The room's forward extremities as stored."""

    async def current_state(self, room_id: str) -> StateIds:
        """The room's current state as stored."""

    async def bad_current_state(self, room_id: str) -> list[str]:
        """The events in the current state that are rejected or missing."""

    async def servers_accepted_since(self, room_id: str, stream_ordering: int) -> list[str]:
        """The servers whose events were accepted after that position."""

    async def settled(self, room_id: str, since_ms: int) -> bool:
        """Whether every event that came in before that time has been processed."""


class FactsReader(Protocol):
    """Reads what a plan is made from. Never writes."""

    async def read(self, room_id: str, *, scan: bool = True) -> RoomFacts:
        """All that a plan for the room is made from; without a scan, only of its rejections.

        Raises:
            UnknownRoom: this server has never heard of the room.
            UnsupportedRoomVersion: no plan can be made for rooms of its version.
        """


class DagReader(Protocol):
    """Reads what the database says of events and of the edges between them. Never writes."""

    async def newest_accepted(self, room_id: str) -> list[str]:
        """The accepted events that lie deepest in the room's DAG, the deepest first."""

    async def accepted_behind(self, event_ids: Collection[str]) -> Behind:
        """The accepted events in the database that follow the events, and some behind those."""

    async def followed(self, event_ids: Collection[str]) -> set[str]:
        """Those of the events that count as followed when forward extremities are made."""

    async def state_groups(self, event_ids: Collection[str]) -> dict[str, int]:
        """The stored state group of each of the events that has one."""

    async def replaced(self, event_ids: Collection[str]) -> dict[str, str | None]:
        """The event that each of some events replaces in the state, as noted with it.

        `None` if it replaces none; left out where what is stored of it cannot be read.
        """

    async def stream_orderings(self, event_ids: Collection[str]) -> dict[str, int]:
        """The order in which this server stored each of the events."""

    async def spells(
        self, facts: RoomFacts, positions: Sequence[int], also: Collection[str]
    ) -> dict[str, Spell]:
        """The events that may have been forward extremities at some positions, by what is stored.

        Args:
            facts: the room as it is.
            positions: stream orderings, in order.
            also: other events to be looked up.
        """


class StateReader(Protocol):
    """Reads and resolves states. Never writes."""

    async def entries(self, group: int, keys: Collection[StateKey]) -> StateIds:
        """Some entries of a stored state group."""

    async def full(self, group: int) -> StateIds:
        """All entries of a stored state group."""

    async def after(self, room_id: str, event_ids: Collection[str]) -> StateIds:
        """The state after some events, as Synapse resolves it from what is stored."""

    async def resolve(
        self, room_id: str, room_version: str, states: Sequence[StateIds], checker: Checker
    ) -> StateIds:
        """Synapse's state resolution of several states, with the checker's accepted events."""

    async def joined_here(self, state: StateIds) -> bool:
        """Whether a user of this server is joined in a state, by what is stored."""


class Checker(Protocol):
    """Runs Synapse's checks on events, taking those decided so far as decided."""

    async def load(self, nodes: Sequence[Node], *, verify: bool = True) -> None:
        """Reads a batch of events and, if told so, verifies their hashes and signatures."""

    async def check(self, node: Node, state_before: StateLookup | None, *, force: bool) -> Verdict:
        """The verdict on a loaded event.

        Args:
            node: the event.
            state_before: the state before it; `None` for an outlier, which has none.
            force: accept it though it fails checks 4 or 5.
        """

    async def soft_fails(self, node: Node, current: StateLookup) -> str | None:
        """Why a loaded event fails against the room's current state (check 6), if it does."""

    async def banned(self, user_id: str, current: StateLookup) -> bool:
        """Whether a user is banned by a state of the room."""

    def auth_keys(self, node: Node) -> Collection[StateKey]:
        """The entries of a state that the rules look at for a loaded event."""

    def decide(self, event_id: str, accepted: bool) -> None:
        """Takes an event as accepted or as rejected from now on."""

    async def not_accepted(self, event_ids: Collection[str]) -> list[str]:
        """Those of the events that are rejected so far, or not known."""


class RoomWriter(Protocol):
    """Changes a room, through Synapse's own doors."""

    async def prepare(self, plan: Plan) -> None:
        """Gets ready for a plan: called before its first steps are applied."""

    async def apply(
        self, job: RepairJob, steps: Sequence[Step], checker: Checker
    ) -> list[tuple[Step, Verdict]]:
        """Re-checks a few steps of a plan and carries out what still holds.

        Each event's own rows are journalled and taken away, and the event is stored
        anew, in one transaction. The steps must all be carried out alike (`action` and
        `backfill` are the same).

        Returns:
            What was decided of each step, from the first on; the rest is for another
            call. A step whose verdict now differs from the plan's ends the list, and is
            not carried out.
        """

    async def forget(self, room_id: str) -> None:
        """Has all processes forget what they have made of a room's current state as it was.

        Part of `finish`, which can be killed just before it.

        Args:
            room_id: the room.
        """

    async def finish(self, plan: Plan) -> None:
        """Brings forward extremities and current state in line with the accepted events.

        Args:
            plan: the plan that was carried out, as far as it was.
        """

    async def finish_after(self, room_id: str, work: Callable[[], Awaitable[Plan]]) -> None:
        """Does the same after some work during which nobody else stores events in the room.

        Args:
            room_id: the room.
            work: what to do; gives the plan that it carried out.
        """

    def not_stored(self, room_id: str) -> list[str]:
        """The events of a room that could not be stored since it was attended to."""

    def attending(self, room_id: str) -> AbstractContextManager[None]:
        """While it lasts, what arrives in the room is looked at again before it is stored."""
