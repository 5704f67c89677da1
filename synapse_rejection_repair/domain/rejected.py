"""The rejected events of a whole server, by all that they are sorted and chosen by."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Mapping

import attr

from synapse_rejection_repair.domain.listing import Listing, Page, RejectionFilter
from synapse_rejection_repair.domain.sorting import sorted_in_pieces, sorted_numbers

RejectedRow = tuple[str, str, str, str, int, int, str]
"""Event id, room id, type, sender, `origin_server_ts`, depth, reason."""

_PLACE_BITS = 32
"""How many bits of a number that is sorted are the place of a row, and not what it is sorted by."""


@attr.s(slots=True, auto_attribs=True)
class RoomCount:
    """How many events of a room are rejected.

    Attributes:
        rejected_events: how many there are.
        first_ts: the earliest `origin_server_ts` among them, in milliseconds.
        last_ts: the latest.
    """

    rejected_events: int
    first_ts: int
    last_ts: int


class RejectedTable:
    """Rejected events, in columns: nothing of the garbage collector's concern.

    It is complete before anybody looks at it, and does not change any more then.
    """

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._words: dict[str, int] = {}
        self._texts: list[str] = []
        self._rooms, self._types = array("i"), array("i")
        self._senders, self._reasons = array("i"), array("i")
        self._times, self._depths = array("q"), array("q")
        self._sorted: array[int] | None = None
        self._by_numbers: dict[str, array[int]] = {}
        self._orders: dict[tuple[str, str], array[int]] = {}

    @property
    def event_ids(self) -> Collection[str]:
        """The ids of all events."""
        return self._ids

    def add(self, rows: Iterable[RejectedRow]) -> None:
        """Adds events."""
        for event_id, room_id, type_, sender, ts, depth, reason in rows:
            self._ids.append(event_id)
            self._rooms.append(self._word(room_id))
            self._types.append(self._word(type_))
            self._senders.append(self._word(sender))
            self._reasons.append(self._word(reason))
            self._times.append(ts)
            self._depths.append(depth)

    def still(self, reasons: Mapping[str, str]) -> RejectedTable:
        """A table of those of its events that are still rejected.

        Args:
            reasons: the reason for each event that is, by id.
        """
        table = RejectedTable()
        rows = map(self._row, range(len(self._ids)))
        table.add(row for row in rows if reasons.get(row[0]) == row[-1])
        return table

    def rooms(self) -> Mapping[str, RoomCount]:
        """How many events of each room there are."""
        found: dict[int, RoomCount] = {}
        for room, ts in zip(self._rooms, self._times, strict=True):
            count = found.get(room)
            if count is None:
                found[room] = RoomCount(1, ts, ts)
                continue
            count.rejected_events += 1
            if ts < count.first_ts:
                count.first_ts = ts
            elif ts > count.last_ts:
                count.last_ts = ts
        return {self._texts[room]: count for room, count in found.items()}

    def page(self, room_id: str, wanted: RejectionFilter, page: Page) -> Listing[str]:
        """The ids of a part of a room's events; those that are equal are in order of their ids."""
        chosen = self._chosen(self._order(room_id, page.order_by), wanted)
        total = len(chosen)
        if page.backwards:
            end = max(total - page.start, 0)
            rows = chosen[max(end - page.limit, 0) : end][::-1]
        else:
            rows = chosen[page.start : page.start + page.limit]
        return Listing([self._ids[row] for row in rows], total)

    def prepare(self) -> None:
        """Sorts all events by their ids, by time and by depth, which takes long."""
        for column in self._numbers():
            self._all_by(column)

    def _order(self, room_id: str, order_by: str) -> array[int]:
        order = self._orders.get((room_id, order_by))
        if order is None:
            room, rooms = self._words.get(room_id, -1), self._rooms
            order = array("i", (row for row in self._all_by(order_by) if rooms[row] == room))
            words = {"type": self._types, "sender": self._senders, "reason": self._reasons}
            if order_by in words:
                order = self._by_word(order, words[order_by])
            self._orders[room_id, order_by] = order
        return order

    def _numbers(self) -> Mapping[str, array[int]]:
        return {"origin_server_ts": self._times, "depth": self._depths}

    def _all_by(self, column: str) -> array[int]:
        """All rows sorted by a column of numbers; by their ids where it is none."""
        numbers = self._numbers().get(column)
        if numbers is None:
            return self._all_by_id()
        if column not in self._by_numbers:
            self._by_numbers[column] = _by_number(self._all_by_id(), numbers)
        return self._by_numbers[column]

    def _all_by_id(self) -> array[int]:
        if self._sorted is None:
            ids = self._ids
            self._sorted = array("i", sorted_in_pieces(range(len(ids)), key=ids.__getitem__))
        return self._sorted

    def _by_word(self, rows: array[int], words: array[int]) -> array[int]:
        """Rows sorted by what a column says; where that is the same, they stay as they are."""
        found: dict[int, array[int]] = {}
        for row in rows:
            word = words[row]
            if word not in found:
                found[word] = array("i")
            found[word].append(row)
        order = array("i")
        for word in sorted(found, key=self._texts.__getitem__):
            order += found[word]
        return order

    def _chosen(self, rows: array[int], wanted: RejectionFilter) -> array[int]:
        for column, text in (
            (self._types, wanted.type),
            (self._senders, wanted.sender),
            (self._reasons, wanted.reason),
        ):
            if text is not None:
                word = self._words.get(text, -1)
                rows = array("i", (row for row in rows if column[row] == word))
        times = self._times
        if wanted.since_ts is not None:
            since = wanted.since_ts
            rows = array("i", (row for row in rows if times[row] >= since))
        if wanted.until_ts is not None:
            until = wanted.until_ts
            rows = array("i", (row for row in rows if times[row] <= until))
        return rows

    def _row(self, row: int) -> RejectedRow:
        texts = self._texts
        return (
            self._ids[row],
            texts[self._rooms[row]],
            texts[self._types[row]],
            texts[self._senders[row]],
            self._times[row],
            self._depths[row],
            texts[self._reasons[row]],
        )

    def _word(self, text: str) -> int:
        number = self._words.get(text)
        if number is None:
            number = self._words[text] = len(self._texts)
            self._texts.append(text)
        return number


def _by_number(rows: array[int], numbers: array[int]) -> array[int]:
    """Rows sorted by a column; where that is the same, they stay as they are."""
    # As one number each, with the row's place in it: nothing is compared sooner.
    keys = (numbers[row] << _PLACE_BITS | place for place, row in enumerate(rows))
    last = (1 << _PLACE_BITS) - 1
    return array("i", (rows[key & last] for key in sorted_numbers(keys)))
