"""Gaps: events that others follow, but that this server has never stored."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import attr

from synapse_rejection_repair.domain.model import Node


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Gap:
    """An event that is not here, though it should be.

    Attributes:
        event_id: the missing event.
        cited_by: the events here that follow it; none for a local user's membership at the end.
    """

    event_id: str
    cited_by: tuple[str, ...]


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Missing:
    """What is missing in a room, before it is known what a repair accepts.

    Attributes:
        events: the missing events, each with the events that follow it and their depths.
        tips: accepted memberships of local users that are here as outliers alone, and that nothing
            follows, by id. Synapse stores an invite so that another server asks it to sign; it is
            a part of the room only once it comes as all events do.
        since: the least depth of what repairs have accepted; `None` if they never did.
    """

    events: Mapping[str, Mapping[str, int]] = attr.Factory(dict)
    tips: Mapping[str, Node] = attr.Factory(dict)
    since: int | None = None


@attr.s(frozen=True, slots=True, auto_attribs=True, order=True)
class Membership:
    """A change of one local user's membership, in the order of the room's history.

    Attributes:
        depth: the depth of the event.
        stream_ordering: where it was stored.
        user_id: the user.
        joined: whether the user is in the room then.
    """

    depth: int
    stream_ordering: int
    user_id: str
    joined: bool


def stay_began(changes: Iterable[Membership]) -> int | None:
    """The depth at which this server came into the room last; `None` if it never was in it.

    What is missing further up, it was never sent.

    Args:
        changes: all changes of local users' memberships.
    """
    began: int | None = None
    joined: set[str] = set()
    for change in sorted(changes):
        if change.joined:
            if not joined:
                began = change.depth
            joined.add(change.user_id)
        else:
            joined.discard(change.user_id)
    return began


def gaps_behind(
    missing: Mapping[str, Collection[str]], standing: Collection[str], others: Collection[str]
) -> tuple[Gap, ...]:
    """The gaps that matter: those that accepted events follow.

    Args:
        missing: the events that follow each missing one.
        standing: those of the doubtful events that are accepted.
        others: the doubtful events: rejected, damaged and soft-failed ones.
    """
    found = []
    for event_id, cited_by in sorted(missing.items()):
        good = tuple(sorted(i for i in cited_by if i in standing or i not in others))
        if good:
            found.append(Gap(event_id, good))
    return tuple(found)


def gaps_at_the_end(
    tips: Mapping[str, Node], since: int, standing: Collection[str], others: Collection[str]
) -> tuple[Gap, ...]:
    """The gaps that nothing follows: memberships that could be a part of the room.

    Args:
        tips: the memberships; see `Missing`.
        since: the depth down from which something can be missing.
        standing: those of the doubtful events that are accepted.
        others: the doubtful events: rejected, damaged and soft-failed ones.
    """
    return tuple(
        Gap(event_id, ())
        for event_id, node in sorted(tips.items())
        if node.depth > since and all(i in standing or i not in others for i in node.prev_event_ids)
    )
