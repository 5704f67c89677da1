"""A room in an old database against the same room here. Reads, and changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile

import attr

from synapse_rejection_repair.domain.imports import Held, ImportRequest, Skip, Summary
from synapse_rejection_repair.domain.media import Mentions
from synapse_rejection_repair.domain.source import BEGINNING, SourceEvent
from synapse_rejection_repair.domain.visibility import hidden_from
from synapse_rejection_repair.errors_imports import OtherRoomVersion, UnknownSourceRoom
from synapse_rejection_repair.media_import import MediaImport
from synapse_rejection_repair.ports_imports import Foretold, ImportTarget, Source

_LOOKED_AT = 500
"""How many events are read and compared at a time."""

COUNTED = {
    "rejected": (Skip.REJECTED_BY_SOURCE,),
    "bad_hash": (Skip.BAD_EVENT_ID,),
    "bad_signature": (Skip.BAD_SIGNATURE, Skip.UNKNOWN_KEY),
    "unreadable": (Skip.MISSING_JSON, Skip.MALFORMED, Skip.OTHER_ROOM),
    "fails_auth": (Skip.AUTH_EVENTS, Skip.STATE_BEFORE, Skip.MISSING_AUTH_EVENTS),
}
"""Which of a summary's counts tells of an event that would not arrive, or only as rejected."""

_IDS = 5000
"""How many ids are compared at a time."""


async def require_room(source: Source, target: ImportTarget, name: str, room_id: str) -> str:
    """The version of a room that can be imported.

    Args:
        source: the old database.
        target: this server.
        name: what the configuration calls the source.
        room_id: the room.

    Raises:
        UnknownSourceRoom: the source has no events of the room.
        OtherRoomVersion: the source has the room with another version.
        RepairError: the source cannot be read, or as `ImportTarget.require_room`.
    """
    version = await target.require_room(room_id)
    if not await source.history(room_id, BEGINNING, 1):
        raise UnknownSourceRoom(name, room_id)
    there = await source.room_version(room_id)
    if there is not None and there != version:
        raise OtherRoomVersion(room_id, version, there)
    return version


async def missing(
    source: Source, target: ImportTarget, room_id: str, *, rejected: bool = False
) -> int:
    """How many events of a room the source has accepted that this server has not in full.

    Args:
        source: the old database.
        target: this server.
        room_id: the room.
        rejected: count those that it rejected as well, which are judged anew.
    """
    count, after = 0, BEGINNING
    while found := await source.ids(room_id, after, _IDS, rejected=rejected):
        after = found[-1][0]
        held = await target.held([event_id for _, event_id in found])
        count += sum(i not in held or not held[i].in_full for _, i in found)
    return count


async def _hidden_events(
    source: Source, room_id: str, server_name: str, events: Sequence[SourceEvent]
) -> int:
    """How many of some events no user of a server may see, who is in the room now."""
    before = await source.groups_before([e for e in events if e.decides_on_itself(server_name)])
    seen_by = {
        e.event_id: {e.state_group, before.get(e.event_id, e.state_group)}
        for e in events
        if e.state_group is not None
    }
    tracked = await source.tracked(set().union(*seen_by.values()), server_name)
    wanted = {v for v, _ in tracked.values() if v is not None}
    wanted.update(m for _, members in tracked.values() for m in members.values())
    found = await source.events(room_id, wanted) if wanted else {}
    contents = {i: (e.pdu or {}).get("content") for i, e in found.items()}
    hidden = {
        group
        for group, (visibility, members) in tracked.items()
        if hidden_from(contents.get(visibility or ""), [contents.get(m) for m in members.values()])
    }
    return sum(groups <= hidden for groups in seen_by.values())


async def summarise(
    source: Source,
    target: ImportTarget,
    media: MediaImport,
    room_id: str,
    version: str,
    server_name: str,
    request: ImportRequest,
) -> Summary:
    """What an import of a room would bring.

    Args:
        source: the old database.
        target: this server.
        media: looks for media.
        room_id: the room.
        version: its version's identifier.
        server_name: this server's name.
        request: what is asked for.
    """
    summary, mentions = Summary(), Mentions()
    forecast = target.forecast(room_id, version, source, request)
    after = BEGINNING
    while events := await source.history(room_id, after, _LOOKED_AT):
        after = events[-1].position
        held = await target.held([e.event_id for e in events])
        foretold = await forecast.inspect(events, held)
        summary = await _add(summary, source, target, room_id, server_name, events, held, foretold)
        await media.look(mentions, events, held, foretold)
    return attr.evolve(summary, media=await media.summarise(source, mentions))


async def _add(
    summary: Summary,
    source: Source,
    target: ImportTarget,
    room_id: str,
    server_name: str,
    events: Sequence[SourceEvent],
    held: Mapping[str, Held],
    foretold: Foretold,
) -> Summary:
    lacking = [e for e in events if (how := held.get(e.event_id)) is None or not how.in_full]
    refused, pruned = foretold.skipped, foretold.pruned
    bad = {s.event_id for s in refused}
    arriving = [e for e in lacking if e.event_id not in bad]
    prevs = {p for e in arriving for p in e.prev_event_ids} - {e.event_id for e in arriving}
    known = {i for i, how in (await target.held(prevs)).items() if how is Held.FULL}
    there = await source.positions(room_id, prevs - known)
    gaps = prevs - known - there.keys()
    reasons = Counter(s.reason for s in refused)
    counts = {name: sum(reasons[r] for r in group) for name, group in COUNTED.items()}
    hidden = await _hidden_events(source, room_id, server_name, arriving)
    return attr.evolve(
        summary,
        source_events=summary.source_events + len(events),
        present=summary.present + len(events) - len(lacking),
        to_import=summary.to_import + len(arriving),
        outliers=summary.outliers + sum(e.event_id in held for e in arriving),
        rejected=summary.rejected + counts["rejected"],
        soft_failed=summary.soft_failed + sum(e.soft_failed for e in arriving),
        bad_hash=summary.bad_hash + len(pruned) + counts["bad_hash"],
        bad_signature=summary.bad_signature + counts["bad_signature"],
        unreadable=summary.unreadable + counts["unreadable"],
        fails_auth=summary.fails_auth + counts["fails_auth"],
        gaps=summary.gaps + sum(not gaps.isdisjoint(e.prev_event_ids) for e in arriving),
        encrypted=summary.encrypted + sum(e.encrypted for e in arriving),
        hidden_by_visibility=summary.hidden_by_visibility + hidden,
        erased=summary.erased + sum(e.erased and not e.is_state for e in arriving),
        newer=_newer(summary, events, lacking, arriving),
    )


def _newer(
    summary: Summary,
    events: Sequence[SourceEvent],
    lacking: Sequence[SourceEvent],
    arriving: Sequence[SourceEvent],
) -> int:
    """How many events would arrive after the last one that is here in full, as far as is known."""
    new = {e.event_id for e in arriving}
    if len(lacking) == len(events):
        # Where nothing is here, nothing is newer than it.
        return summary.newer + len(new) if summary.present else 0
    absent = {e.event_id for e in lacking}
    after = takewhile(lambda e: e.event_id in absent, reversed(events))
    return sum(e.event_id in new for e in after)
