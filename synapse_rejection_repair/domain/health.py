"""The rules of a room's health: what is looked at, and how a finding is worded."""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attr

EXAMPLES = 10
"""How many event ids a problem shows."""


class Finding(str, enum.Enum):
    """What can be wrong with a room."""

    WRONGLY_REJECTED = "wrongly_rejected"
    REJECTED = "rejected"
    WRONGLY_SOFT_FAILED = "wrongly_soft_failed"
    SOFT_FAILED = "soft_failed"
    GAPS = "gaps"
    BAD_CURRENT_STATE = "bad_current_state"
    BAD_EXTREMITIES = "bad_extremities"
    MISSING_EDGES = "missing_edges"
    MISSING_STATE_GROUP = "missing_state_group"
    MISSING_STATE_ROW = "missing_state_row"
    MISSING_MEMBERSHIP = "missing_membership"
    MISSING_SEARCH = "missing_search"
    STATE_MISMATCH = "state_mismatch"
    STALE_STATE = "stale_state"


_DETAIL = {
    Finding.WRONGLY_REJECTED: "rejected here, though they pass the checks today"
    " (or follow only from events that do)",
    Finding.REJECTED: "rejected, and fail the checks today as well: this is as it should be",
    Finding.WRONGLY_SOFT_FAILED: "hidden from clients, because the current state was not what it"
    " should have been when they arrived",
    Finding.SOFT_FAILED: "hidden from clients, as they should be: soft-failed",
    Finding.GAPS: "no part of the room here, though accepted events follow them, or they are"
    " memberships of this server's users: other servers may have them",
    Finding.BAD_CURRENT_STATE: "in the current state, but rejected or missing",
    Finding.BAD_EXTREMITIES: "forward extremities, but rejected, soft-failed, missing, outliers"
    " or followed by accepted events",
    Finding.MISSING_EDGES: "accepted, but without the rows that tie them to the events"
    " before them: what un-rejecting by SQL leaves behind",
    Finding.MISSING_STATE_GROUP: "accepted, but without a state group",
    Finding.MISSING_STATE_ROW: "accepted state events without a row in state_events",
    Finding.MISSING_MEMBERSHIP: "accepted member events whose membership is not noted in"
    " room_memberships or, if they are in it, in the current state",
    Finding.MISSING_SEARCH: "accepted messages that the search does not find",
    Finding.STATE_MISMATCH: "entries in which the current state differs from what the"
    " forward extremities resolve to",
    Finding.STALE_STATE: "accepted events whose stored state lacks the state before them",
}

_HARMLESS = {Finding.REJECTED, Finding.SOFT_FAILED}


@attr.s(frozen=True, slots=True, auto_attribs=True)
class Problem:
    """One kind of defect found in a room.

    Attributes:
        check: what was looked at.
        count: how many events or entries have it.
        events: the first few event ids.
        detail: what it means, in a sentence.
        repairable: whether a repair mends it.
    """

    check: Finding
    count: int
    events: tuple[str, ...]
    detail: str
    repairable: bool


def problem(check: Finding, event_ids: Iterable[str], *, repairable: bool = True) -> list[Problem]:
    """The problem that the events have, or nothing where there are none.

    Args:
        check: what they were found by.
        event_ids: the events.
        repairable: whether a repair mends it.
    """
    found = list(event_ids)
    if not found:
        return []
    detail = f"{len(found)} {_DETAIL[check]}"
    return [Problem(check, len(found), tuple(found[:EXAMPLES]), detail, repairable)]


def healthy(problems: Iterable[Problem]) -> bool:
    """Whether nothing needs an admin: events that are rightly kept out are no defect."""
    return all(p.check in _HARMLESS for p in problems)
