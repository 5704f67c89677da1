"""In what order, and how many at a time, the events of an old server arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import attr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_rejection_repair.arrival_order import ArrivalOrder
from synapse_rejection_repair.domain.imports import (
    Held,
    ImportJob,
    ImportProgress,
    ImportRequest,
    Skip,
    Skipped,
)
from synapse_rejection_repair.domain.job import Job, Status
from synapse_rejection_repair.domain.listing import Listing, Page
from synapse_rejection_repair.domain.source import BEGINNING, Position, SourceEvent
from synapse_rejection_repair.domain.spans import Span
from synapse_rejection_repair.import_jobs import ImportRunner


@attr.s(auto_attribs=True)
class Books:
    """A source, and a server that has nothing of it yet; counts what is read of the events."""

    parents: Mapping[str, Sequence[str]]
    """By id, in the order in which they were sent."""
    depths: Mapping[str, int]
    here: Mapping[str, Held] = attr.Factory(dict)
    rejected: Collection[str] = ()
    read: int = 0
    calls: int = 0
    pages: int = 0

    def _event(self, event_id: str) -> SourceEvent:
        position = Position(self.depths[event_id], list(self.parents).index(event_id))
        pdu = {"prev_events": list(self.parents[event_id])}
        return SourceEvent(event_id, position, pdu, rejected=event_id in self.rejected)

    async def history(self, room_id: str, after: Position, limit: int) -> list[SourceEvent]:
        events = sorted(map(self._event, self.parents), key=lambda e: e.position)
        found = [e for e in events if e.position > after][:limit]
        self.read += len(found)
        self.pages += 1
        return found

    async def events(self, room_id: str, event_ids: Collection[str]) -> dict[str, SourceEvent]:
        self.read += len(event_ids)
        self.calls += 1
        return {i: self._event(i) for i in event_ids}

    async def positions(self, room_id: str, event_ids: Collection[str]) -> dict[str, Position]:
        return {i: self._event(i).position for i in event_ids if i in self.parents}

    async def held(self, event_ids: Collection[str]) -> dict[str, Held]:
        return {i: self.here[i] for i in event_ids if i in self.here}


@attr.s(auto_attribs=True)
class Came:
    """What has come, and how much was read and not given at most."""

    events: list[str] = attr.Factory(list)
    skipped: list[Skipped] = attr.Factory(list)
    batches: list[int] = attr.Factory(list)
    cursors: list[Position] = attr.Factory(list)
    waiting: int = 0


def arrive(books: Books, page: int) -> Came:
    came, given_out = Came(), 0

    async def take() -> None:
        nonlocal given_out
        any_books: Any = books
        async for events, skipped, cursor in ArrivalOrder(
            any_books, any_books, "!room", BEGINNING, page
        ).batches():
            came.waiting = max(came.waiting, books.read - given_out)
            given_out += len(events)
            came.events += [e.event_id for e in events]
            came.skipped += skipped
            came.batches.append(len(events))
            came.cursors.append(cursor)

    asyncio.run(take())
    return came


def test_what_one_lied_depth_frees_comes_a_page_at_a_time() -> None:
    """On top of an honest history, somebody begins to count anew."""
    number, page = 300, 10
    ids = [f"${n:03}" for n in range(2 * number)]
    books = Books(
        {i: ids[n - 1 : n] if n else [] for n, i in enumerate(ids)},
        {i: n + 1 if n < number else n + 1 - number for n, i in enumerate(ids)},
    )
    came = arrive(books, page)
    assert came.events == ids
    assert max(came.batches) == page
    # Of the second half, each was read once to see that it has to wait.
    assert came.waiting - number <= 2 * page
    assert books.calls <= number // page + page
    assert came.cursors == sorted(came.cursors)
    assert came.cursors[-1] == Position(number, 2 * number - 1)


def test_the_databases_are_asked_for_several_pages_at_once() -> None:
    ids = [f"${n:03}" for n in range(100)]
    parents = {i: ids[n - 1 : n] if n else [] for n, i in enumerate(ids)}
    books = Books(parents, dict.fromkeys(ids, 1))
    came = arrive(books, 10)
    assert came.events == ids
    assert came.batches[:10] == [10] * 10
    assert books.pages <= 4
    assert came.waiting <= 40


histories = st.lists(
    # For each event: how far back those are that it follows, and the depth that it claims.
    st.tuples(st.sets(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 12)),
    min_size=1,
    max_size=40,
)


@given(histories, st.integers(1, 7), st.sets(st.integers(0, 40)))
def test_parents_come_first_whatever_the_depths_say(
    history: list[tuple[set[int], int]], page: int, there: set[int]
) -> None:
    ids = [f"${n}" for n in range(len(history))]
    parents = {f"${n}": [ids[n - b] for b in back if b <= n] for n, (back, _) in enumerate(history)}
    here = {f"${n}": Held.FULL for n in there if n < len(history)}
    books = Books(parents, {i: history[n][1] for n, i in enumerate(ids)}, here)
    came = arrive(books, page)
    assert sorted(came.events) == sorted(set(ids) - here.keys())
    place = {event_id: n for n, event_id in enumerate(came.events)}
    for event_id in came.events:
        assert all(p in here or place[p] < place[event_id] for p in parents[event_id])
    assert max(came.batches) <= page
    assert came.cursors == sorted(came.cursors)


def test_those_in_a_circle_come_all_the_same() -> None:
    parents = {"$a": ["$b"], "$b": ["$a"], "$c": ["$b"], "$d": ["$e"], "$e": ["$d"]}
    came = arrive(Books(parents, dict.fromkeys(parents, 1)), page=2)
    assert came.events == ["$a", "$b", "$c", "$d", "$e"]
    assert [size for size in came.batches if size] == [2, 2, 1]


def test_what_the_source_rejected_comes_to_be_judged() -> None:
    here = {"$held": Held.OUTLIER, "$refused": Held.REJECTED_OUTLIER, "$kept": Held.REJECTED}
    parents: dict[str, list[str]] = {i: [] for i in ("$new", *here)}
    came = arrive(Books(parents, dict.fromkeys(parents, 1), here, rejected=parents), page=9)
    assert came.events == ["$new", "$held", "$refused"]
    assert came.skipped == []
    # What was accepted there is a matter for a repair.
    came = arrive(Books(parents, dict.fromkeys(parents, 1), here, rejected=()), page=9)
    assert [(s.event_id, s.reason) for s in came.skipped] == [("$kept", Skip.REJECTED_HERE)]


CALLED_OFF, LEFT = ImportProgress(), ImportProgress(reserved=((-9, -5),), lowest=-12)


@pytest.mark.parametrize(
    ("earlier", "reserved"),
    [
        ([(Status.CANCELLED, LEFT)], LEFT.reserved),
        ([(Status.FAILED, LEFT)], LEFT.reserved),
        ([(Status.CANCELLED, LEFT)] + [(Status.CANCELLED, CALLED_OFF)] * 30, LEFT.reserved),
        # What it left is higher than what it has used.
        ([(Status.CANCELLED, LEFT), (Status.COMPLETE, LEFT)], ()),
        # There was nothing to bring then.
        ([(Status.CANCELLED, LEFT), (Status.COMPLETE, ImportProgress())], LEFT.reserved),
        ([], ()),
    ],
)
def test_what_the_last_import_has_left_is_taken_over(
    earlier: list[tuple[Status, ImportProgress]], reserved: tuple[Span, ...]
) -> None:
    new = import_job(len(earlier), Status.ACTIVE, ImportProgress())
    jobs = [*(import_job(n, *one) for n, one in enumerate(earlier)), new]

    async def page(page: Page, room_id: str | None, status: Status | None) -> Listing[ImportJob]:
        assert (room_id, status, page.order_by, page.backwards) == ("!r", None, "created_ts", True)
        return Listing(jobs[::-1][page.start : page.start + page.limit], len(jobs))

    runner = ImportRunner.__new__(ImportRunner)
    object.__setattr__(runner, "store", SimpleNamespace(page=page))
    found = asyncio.run(runner._continue_orderings(new)).progress
    assert (found.reserved, found.lowest) == (reserved, -12 if reserved else None)


def import_job(number: int, status: Status, progress: ImportProgress) -> ImportJob:
    return Job(str(number), "!r", status, ImportRequest("old"), progress, created_ts=number)
