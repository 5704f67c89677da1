"""Many events as nodes, without an object for each: a room may have a hundred thousand rejected."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping

from synapse_rejection_repair.domain.model import Node

_OUTLIER, _DAMAGED, _SOFT_FAILED = 1, 2, 4


class NodeTable(Mapping[str, Node]):
    """Nodes by event id, in the order in which they were added.

    They are kept in columns of numbers, and made into nodes when they are asked for: that
    takes a fifth of the memory, and leaves Python's garbage collector, which stops the whole
    server while it looks through all objects, nothing to look through.

    Args:
        nodes: those to begin with.
    """

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._rows = array("i")
        self._words: dict[str | None, int] = {}
        self._texts: list[str | None] = []
        self._ids, self._types, self._keys = array("i"), array("i"), array("i")
        self._senders, self._reasons = array("i"), array("i")
        self._times, self._depths, self._orderings = array("q"), array("q"), array("q")
        self._flags = bytearray()
        self._prevs, self._auths = _References(), _References()
        for node in nodes:
            self.add(node)

    @classmethod
    def of(cls, nodes: Mapping[str, Node]) -> NodeTable:
        """A table of the nodes; themselves, if they are one."""
        return nodes if isinstance(nodes, NodeTable) else cls(nodes.values())

    def add(self, node: Node) -> None:
        """Adds a node, unless the table has one of that id."""
        number = self._number(node.event_id)
        if self._rows[number] >= 0:
            return
        self._rows[number] = len(self._ids)
        self._ids.append(number)
        self._types.append(self._word(node.type))
        self._keys.append(self._word(node.state_key))
        self._senders.append(self._word(node.sender))
        self._reasons.append(self._word(node.rejected))
        self._times.append(node.origin_server_ts)
        self._depths.append(node.depth)
        self._orderings.append(node.stream_ordering)
        self._flags.append(
            _OUTLIER * node.outlier + _DAMAGED * node.damaged + _SOFT_FAILED * node.soft_failed
        )
        self._prevs.append(map(self._number, node.prev_event_ids))
        self._auths.append(map(self._number, node.auth_event_ids))

    def __getitem__(self, event_id: str) -> Node:
        row = self._row(event_id)
        if row < 0:
            raise KeyError(event_id)
        return self.at(row)

    def __contains__(self, event_id: object) -> bool:
        return isinstance(event_id, str) and self._row(event_id) >= 0

    def __iter__(self) -> Iterator[str]:
        names = self._names
        return (names[number] for number in self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def at(self, row: int) -> Node:
        """The node that was added as number `row`."""
        names, texts, flags = self._names, self._texts, self._flags[row]
        return Node(
            names[self._ids[row]],
            texts[self._types[row]] or "",
            texts[self._keys[row]],
            texts[self._senders[row]] or "",
            self._times[row],
            self._depths[row],
            self._orderings[row],
            tuple([names[number] for number in self._prevs.of(row)]),
            tuple([names[number] for number in self._auths.of(row)]),
            texts[self._reasons[row]],
            bool(flags & _OUTLIER),
            bool(flags & _DAMAGED),
            bool(flags & _SOFT_FAILED),
        )

    def first_stored(self) -> int:
        """The lowest stream ordering of all: where the first of the events was stored."""
        return min(self._orderings)

    def id_at(self, row: int) -> str:
        """The id of the event that was added as number `row`."""
        return self._names[self._ids[row]]

    def ordering_at(self, row: int) -> int:
        """The stream ordering of the event that was added as number `row`."""
        return self._orderings[row]

    def parents_at(self, row: int) -> set[int]:
        """The rows of the events that a row's event follows or cites, as far as they are here."""
        rows = self._rows
        numbers = (*self._prevs.of(row), *self._auths.of(row))
        return {rows[number] for number in numbers} - {row, -1}

    def followers(self) -> Callable[[str], Iterator[str]]:
        """Tells which events of the table follow an event, whether that is here or not."""
        links = Links(len(self._names))
        for row in range(len(self)):
            for number in self._prevs.of(row):
                links.add(number, row)

        def of(event_id: str) -> Iterator[str]:
            number = self._numbers.get(event_id)
            return iter(()) if number is None else map(self.id_at, links.of(number))

        return of

    def _row(self, event_id: str) -> int:
        number = self._numbers.get(event_id)
        return -1 if number is None else self._rows[number]

    def _number(self, event_id: str) -> int:
        number = self._numbers.get(event_id)
        if number is None:
            number = self._numbers[event_id] = len(self._names)
            self._names.append(event_id)
            self._rows.append(-1)
        return number

    def _word(self, text: str | None) -> int:
        number = self._words.get(text)
        if number is None:
            number = self._words[text] = len(self._texts)
            self._texts.append(text)
        return number


class Union(Mapping[str, Node]):
    """Several mappings as one: of those that have an event, the first counts."""

    def __init__(self, *mappings: Mapping[str, Node]) -> None:
        self._mappings = mappings

    def __getitem__(self, event_id: str) -> Node:
        for mapping in self._mappings:
            if event_id in mapping:
                return mapping[event_id]
        raise KeyError(event_id)

    def __contains__(self, event_id: object) -> bool:
        return any(event_id in mapping for mapping in self._mappings)

    def __iter__(self) -> Iterator[str]:
        for place, mapping in enumerate(self._mappings):
            before = self._mappings[:place]
            yield from (i for i in mapping if not any(i in other for other in before))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _References:
    """A list of numbers for each row, all of them in one array."""

    def __init__(self) -> None:
        self._numbers, self._ends = array("i"), array("q", [0])

    def append(self, numbers: Iterable[int]) -> None:
        self._numbers.extend(numbers)
        self._ends.append(len(self._numbers))

    def of(self, row: int) -> array[int]:
        return self._numbers[self._ends[row] : self._ends[row + 1]]


class Links:
    """Which numbers hang on which, for as many as it takes, without a list for each.

    Args:
        size: how many numbers there are.
    """

    def __init__(self, size: int) -> None:
        self._first = array("i", [-1]) * size
        self._next, self._child = array("i"), array("i")

    def add(self, parent: int, child: int) -> None:
        """Hangs a number on another."""
        self._next.append(self._first[parent])
        self._first[parent] = len(self._child)
        self._child.append(child)

    def of(self, parent: int) -> Iterator[int]:
        """The numbers that hang on a number."""
        link = self._first[parent]
        while link >= 0:
            yield self._child[link]
            link = self._next[link]
