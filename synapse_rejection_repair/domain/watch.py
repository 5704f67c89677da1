"""What follows from rejections as they are noticed: which roots they have, and what is an alert."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import attr

MAX_ROOTS = 50
"""How many roots are kept of one event: a forged one can cite events with a thousand."""


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Rejection:
    """A rejection at the moment at which Synapse told of it in its log.

    Attributes:
        event_id: the rejected event.
        room_id: its room.
        check: the check that it failed, as `domain.model.Check` names it; `None` if unknown.
        error: why, in Synapse's words.
        ts: when, in milliseconds.
        auth_event_ids: the events that it cites as its authority.
    """

    event_id: str
    room_id: str
    check: str | None
    error: str
    ts: int
    auth_event_ids: tuple[str, ...]


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Recorded:
    """What was recorded of a rejection.

    Attributes:
        check: the check that the event failed then; `None` if unknown.
        error: why, in Synapse's words of then.
        ts: when, in milliseconds.
    """

    check: str | None
    error: str
    ts: int


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Seen:
    """A recorded rejection as the graph knows it.

    Attributes:
        event_id: the rejected event.
        ts: when it was rejected, in milliseconds.
        roots: the roots that it followed then; none for a root.
    """

    event_id: str
    ts: int
    roots: tuple[str, ...]


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Behind:
    """What is known of how a rejected event came to be rejected.

    Attributes:
        roots: the roots that it follows, `None` if that is not known.
        parents: the rejected events that it cites, where its roots are not known.
    """

    roots: tuple[str, ...] | None = None
    parents: tuple[str, ...] = ()


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Begun:
    """A cascade that has begun.

    Attributes:
        root: the event behind which it began.
        count: how many events were noticed to follow the root.
        first_ts: when the root was rejected, or else the first event behind it that was
            noticed, in milliseconds.
    """

    root: str
    count: int
    first_ts: int


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Alert:
    """A root whose cascade has begun, which admins are told of once.

    Attributes:
        room_id: the room.
        event_id: the root.
        check: the check that the root failed; `None` if it was not noticed.
        error: why, in Synapse's words; `None` if it was not noticed.
        first_ts: when the root was rejected, or else the first event behind it that was
            noticed, in milliseconds.
        alerted_ts: when the alert was raised, in milliseconds.
        cascade: how many events followed the root by then.
        repair_id: the repair of the root that was begun without an admin; `None` if none was.
    """

    room_id: str
    event_id: str
    check: str | None
    error: str | None
    first_ts: int
    alerted_ts: int
    cascade: int
    repair_id: str | None = None


def roots_behind(cited: Iterable[str], ancestry: Mapping[str, Behind]) -> tuple[str, ...]:
    """The roots that an event follows, which cites some rejected events.

    Events that claim each other in a cycle have none.

    Args:
        cited: the rejected events that it cites.
        ancestry: what is known of these and of those behind them. Who is not in it, was
            too far up to be looked at, and counts for nothing.
    """
    roots: dict[str, None] = {}
    left, passed = list(cited), set()
    while left and len(roots) < MAX_ROOTS:
        event_id = left.pop()
        behind = ancestry.get(event_id)
        if event_id in passed or behind is None:
            continue
        passed.add(event_id)
        if behind.roots:
            roots.update(dict.fromkeys(behind.roots))
        elif behind.parents:
            left.extend(behind.parents)
        else:
            roots[event_id] = None
    return tuple(sorted(roots)[:MAX_ROOTS])


def cascades_begun(seen: Iterable[Seen], after: int) -> list[Begun]:
    """The roots in a room that enough events follow, by the time at which they began.

    Args:
        seen: what was recorded in the room.
        after: how many events make a cascade.
    """
    count: dict[str, int] = {}
    first: dict[str, int] = {}
    own: dict[str, int] = {}
    for event in seen:
        own[event.event_id] = event.ts
        for root in event.roots:
            count[root] = count.get(root, 0) + 1
            first[root] = min(first.get(root, event.ts), event.ts)
    begun = [Begun(r, n, own.get(r, first[r])) for r, n in count.items() if n >= after]
    return sorted(begun, key=lambda b: (b.first_ts, b.root))


def newest(
    begun: Iterable[Begun], alerted: Mapping[str, int], most: int
) -> tuple[list[Begun], list[str]]:
    """Which cascades of a room to raise an alert about, and which of its alerts to forget.

    There are to be the newest ones alone. What is forgotten is older than what is kept, so it is
    not raised again, unless its cascade goes on: then it is as new as what is recorded of it.

    Args:
        begun: the cascades that have begun.
        alerted: the roots that there are alerts about, each with its `first_ts`.
        most: how many alerts there may be.
    """
    new = {cascade.root: cascade for cascade in begun if cascade.root not in alerted}
    ages = {**alerted, **{root: cascade.first_ts for root, cascade in new.items()}}
    ordered = sorted(ages, key=lambda root: (ages[root], root))
    old = frozenset(ordered[:-most])
    return [c for root, c in new.items() if root not in old], sorted(old & alerted.keys())


def raised(
    room_id: str,
    begun: Iterable[Begun],
    rejected: Collection[str],
    recorded: Mapping[str, Recorded],
    now_ms: int,
) -> list[Alert]:
    """The alerts about cascades that have begun.

    Args:
        room_id: the room.
        begun: the cascades, none of which was alerted of yet.
        rejected: those of the roots that are rejected still: a repair may have been faster.
        recorded: what was recorded of the roots.
        now_ms: the time in milliseconds.
    """
    alerts = []
    for cascade in begun:
        if cascade.root in rejected:
            cause = recorded.get(cascade.root)
            alerts.append(
                Alert(
                    room_id,
                    cascade.root,
                    cause.check if cause else None,
                    cause.error if cause else None,
                    cascade.first_ts,
                    now_ms,
                    cascade.count,
                )
            )
    return alerts
