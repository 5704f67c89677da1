"""What other servers of a room say of an event: it informs, and decides nothing."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import attr

from synapse_rejection_repair.domain.model import StateIds, StateKey


class Held(str, enum.Enum):
    """Whether a server holds an event as accepted, as far as it says."""

    HOLDS = "holds"
    """It gives the state before it."""
    DOES_NOT_HOLD = "does_not_hold"
    """It does not know the event, or has rejected it as well: the two look alike."""
    NO_ANSWER = "no_answer"
    """It did not answer in time, or with nothing that makes sense."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class PeerAnswer:
    """What one server says of an event.

    Attributes:
        server: the server's name.
        answer: whether it holds the event.
        error: why there is no answer, in a few words of ours.
        state_ids: the events that make up the state before it there, as it says.
    """

    server: str
    answer: Held
    error: str | None = None
    state_ids: frozenset[str] = frozenset()


@attr.s(frozen=True, slots=True, auto_attribs=True)
class StateDifference:
    """An entry of the state before an event that is not the same elsewhere.

    Attributes:
        type: the entry's event type.
        state_key: its state key.
        ours: the event that holds it here, `None` if none does.
        theirs: the one that holds it there, `None` if none does that is known here.
        servers: who says so.
    """

    type: str
    state_key: str
    ours: str | None
    theirs: str | None
    servers: tuple[str, ...]


@attr.s(frozen=True, slots=True, auto_attribs=True)
class PeerReport:
    """What the servers that were asked say of an event.

    Attributes:
        answers: each server's answer.
        differences: where the state before the event is another one there.
        unknown: how many events of those states this server does not have.
        disagree: the servers that hold the event, and have another state before it.
    """

    answers: tuple[PeerAnswer, ...]
    differences: tuple[StateDifference, ...]
    unknown: int
    disagree: frozenset[str]

    def count(self, answer: Held) -> int:
        """How many servers gave that answer."""
        return sum(a.answer is answer for a in self.answers)


def report(
    answers: Sequence[PeerAnswer], ours: StateIds, keys: Mapping[str, StateKey]
) -> PeerReport:
    """Compares what servers say with what is here.

    Args:
        answers: what they say.
        ours: the state before the event here.
        keys: which entry each of the named events holds, as far as they are known here.
    """
    found: dict[tuple[StateKey, str | None, str | None], list[str]] = {}
    unknown: set[str] = set()
    mine = {*ours.values()}
    holders = [answer for answer in answers if answer.answer is Held.HOLDS]
    for answer in holders:
        unknown |= answer.state_ids - keys.keys()
        theirs = {keys[i]: i for i in answer.state_ids if i in keys}
        for key in sorted({*ours, *theirs}):
            if ours.get(key) != theirs.get(key):
                found.setdefault((key, ours.get(key), theirs.get(key)), []).append(answer.server)
    differences = [
        StateDifference(key[0], key[1], here, there, tuple(servers))
        for (key, here, there), servers in found.items()
    ]
    disagree = frozenset(answer.server for answer in holders if answer.state_ids != mine)
    return PeerReport(tuple(answers), tuple(differences), len(unknown), disagree)


def in_turn(joined: Sequence[str], sender_server: str) -> list[str]:
    """The servers to ask: that of the sender, who must hold it, then those longest in the room.

    Args:
        joined: the other servers in the room, the longest there first.
        sender_server: the server of the event's sender.
    """
    return sorted(joined, key=lambda s: s != sender_server)
