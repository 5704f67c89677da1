"""What the inner rooms ask of the outer: the Protocols that `adapter` implements."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from synapse_rejection_repair.domain.imports import (
    Held,
    ImportJob,
    Position,
    Skipped,
    SourceEvent,
)
from synapse_rejection_repair.domain.job import Job, Progress, Request, Status
from synapse_rejection_repair.domain.listing import (
    Listing,
    Page,
    RejectionFilter,
    RejectionRow,
    RoomRow,
)
from synapse_rejection_repair.domain.model import Node, StateIds, StateKey, Verdict
from synapse_rejection_repair.domain.plan import Plan, RoomFacts, Step
from synapse_rejection_repair.domain.repair import RepairJob

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


class RoomReader(Protocol):
    """Reads what the database says of rooms and their events. Never writes."""

    async def rooms(self, page: Page) -> Listing[RoomRow]:
        """The rooms with rejected events."""

    async def rejections(
        self, room_id: str, wanted: RejectionFilter, page: Page
    ) -> Listing[RejectionRow]:
        """A room's rejected events."""

    async def require_room(self, room_id: str) -> str:
        """The room's version; raises `UnknownRoom`."""

    async def require_repairable(self, room_id: str) -> None:
        """Raises `UnknownRoom`, `NotInRoom`, `PartialState` or `UnsupportedRoomVersion`."""

    async def unknown_events(self, room_id: str, event_ids: Collection[str]) -> list[str]:
        """Those of the ids that are no events of the room here."""

    async def facts(self, room_id: str, *, scan: bool = True) -> RoomFacts:
        """All that a plan for the room is made from; without a scan, only of its rejections."""

    async def newest_accepted(self, room_id: str) -> list[str]:
        """The accepted events that lie deepest in the room's DAG, the deepest first."""

    async def position(self, room_id: str) -> int:
        """The stream ordering of the room's newest event."""

    async def bad_current_state(self, room_id: str) -> list[str]:
        """The events in the current state that are rejected or missing."""

    async def stream_orderings(self, event_ids: Collection[str]) -> dict[str, int]:
        """The order in which this server stored each of the events."""

    async def accepted_children(self, event_ids: Collection[str]) -> dict[str, list[Node]]:
        """The accepted events in the database that follow each of the events."""

    async def followed(self, event_ids: Collection[str]) -> set[str]:
        """Those of the events that count as followed when forward extremities are made."""

    async def state_groups(self, event_ids: Collection[str]) -> dict[str, int]:
        """The stored state group of each of the events that has one."""

    async def servers_accepted_since(self, room_id: str, stream_ordering: int) -> list[str]:
        """The servers whose events were accepted after that position."""

    async def settled(self, room_id: str, since_ms: int) -> bool:
        """Whether every event that came in before that time has been processed."""


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

    async def soft_fails(self, node: Node, current: StateLookup) -> bool:
        """Whether a loaded event fails the rules against the room's current state (check 6)."""

    def auth_keys(self, node: Node) -> Collection[StateKey]:
        """The entries of a state that the rules look at for a loaded event."""

    def decide(self, event_id: str, accepted: bool) -> None:
        """Takes an event as accepted or as rejected from now on."""


class RoomWriter(Protocol):
    """Changes a room, through Synapse's own doors."""

    async def prepare(self, plan: Plan) -> None:
        """Gets ready for a plan: called before its first steps are applied."""

    async def apply(
        self, job: RepairJob, steps: Sequence[Step], checker: Checker
    ) -> list[tuple[Step, Verdict]]:
        """Re-checks a few steps of a plan and carries out what still holds.

        Each event's own rows are journalled and taken away, and the event is stored
        anew, in one transaction. The steps must all be carried out alike.

        Returns:
            What was decided of each step, from the first on; the rest is for another
            call. A step whose verdict now differs from the plan's ends the list, and is
            not carried out.
        """

    async def finish(self, plan: Plan) -> None:
        """Brings forward extremities and current state in line with the accepted events."""

    async def finish_after(self, room_id: str, work: Callable[[], Awaitable[Plan]]) -> None:
        """Likewise, once `work` has given its plan; meanwhile nothing is stored in the room."""

    def attending(self, room_id: str) -> AbstractContextManager[None]:
        """While it lasts, what arrives in the room takes the mended states of what it follows."""


class JobStore(Protocol[Request, Progress]):
    """Keeps jobs of one kind in the module's own tables."""

    async def create(self, room_id: str, request: Request) -> Job[Request, Progress]:
        """A new job; raises `JobRunning` where the room has one of whatever kind."""

    async def get(self, job_id: str) -> Job[Request, Progress]:
        """The job; raises `UnknownJob`."""

    async def page(
        self, page: Page, room_id: str | None, status: Status | None
    ) -> Listing[Job[Request, Progress]]:
        """The jobs, of one room or status where given."""

    async def unfinished(self) -> list[Job[Request, Progress]]:
        """The jobs that wait for this process, or that it was at when it ended."""

    async def save(self, job: Job[Request, Progress]) -> Job[Request, Progress]:
        """Writes a job's progress or end; gives it back with any request to cancel it."""

    async def cancel_requested(self, job_id: str) -> bool:
        """Whether the job has been asked to stop."""

    async def cancel(self, job_id: str) -> Job[Request, Progress]:
        """Asks a job to stop; raises `UnknownJob` or `JobOver`."""

    async def journalled(self, job_id: str, action: str) -> frozenset[str]:
        """The events that the job has done something with so far, as its journal has them."""


class Source(Protocol):
    """An old homeserver's database, opened to be read. Never writes, never blocks the reactor."""

    async def rooms(self) -> dict[str, int]:
        """How many events the old server has accepted, by room."""

    async def room_version(self, room_id: str) -> str | None:
        """The room's version, `None` if unknown."""

    async def count(self, room_id: str) -> int:
        """How many events of the room there are that are no outliers."""

    async def accepted_ids(
        self, room_id: str, after: Position, limit: int
    ) -> list[tuple[Position, str]]:
        """The next of the room's accepted events, in the source's order."""

    async def history(self, room_id: str, after: Position, limit: int) -> list[SourceEvent]:
        """The next of the room's events that are no outliers, in the source's order."""

    async def events(self, room_id: str, event_ids: Collection[str]) -> dict[str, SourceEvent]:
        """Some of the room's events, outliers too; unknown ids are left out."""

    async def positions(self, room_id: str, event_ids: Collection[str]) -> dict[str, Position]:
        """Where those of the events are in its order that it has as no outliers."""

    async def state_before(self, event: SourceEvent) -> StateIds:
        """The state before one of its events; empty if it does not know it."""

    async def tracked(
        self, groups: Collection[int], server_name: str
    ) -> dict[int, tuple[str | None, StateIds]]:
        """What of some states decides who of a server's users may see an event.

        Gives for each state group the event that sets the history visibility, and the
        membership events of the server's users.
        """

    async def verify_keys(self, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """The keys that it has cached, by server and key id, in unpadded base64."""

    async def close(self) -> None:
        """Ends the connection."""


class Sources(Protocol):
    """The old databases that the configuration names."""

    def names(self) -> list[str]:
        """Their names."""

    async def open(self, name: str) -> Source:
        """Opens one; raises `UnknownSource`, `SourceUnavailable` or `SourceRefused`."""


class ImportTarget(Protocol):
    """This server, as the place that history is imported into."""

    async def require_room(self, room_id: str) -> str:
        """The room's version; raises what `RoomReader.require_repairable` raises."""

    async def joined_rooms(self, room_ids: Collection[str]) -> set[str]:
        """Those of the rooms that a user of this server is in."""

    async def held(self, event_ids: Collection[str]) -> dict[str, Held]:
        """How this server has those of the events that it has."""

    async def inspect(
        self, room_id: str, room_version: str, events: Sequence[SourceEvent]
    ) -> tuple[list[Skipped], list[str]]:
        """The events that cannot be had as they are, and those that would arrive redacted."""


class SkippedList(Protocol):
    """What imports have left out, or stored as rejected."""

    async def page(self, job_id: str, page: Page) -> Listing[Skipped]:
        """The events that an import has skipped."""


class ImportWriter(Protocol):
    """Stores events of one room as history, on the process that writes them."""

    async def prepare(self, job: ImportJob, count: int) -> ImportJob:
        """Sets the stream orderings aside that so many events need; gives the saved job.

        Those that the job has already are kept, if they are still good.
        """

    async def store(
        self,
        job: ImportJob,
        events: Sequence[SourceEvent],
        cursor: Position | None,
        skipped: Sequence[Skipped],
    ) -> ImportJob:
        """Checks and stores some events, and notes in the same transactions how far it is.

        Args:
            job: the import.
            events: the events, parents first.
            cursor: the position before which everything is decided once they are stored.
            skipped: the events that have been skipped since the last call.
        """
