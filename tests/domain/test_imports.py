"""What an import is asked, where it stands, in what order events arrive, who may see them."""

from __future__ import annotations

import json
from collections import Counter

import attr
import pytest

from synapse_rejection_repair.comparison import COUNTED
from synapse_rejection_repair.domain.arrival import WaitingRoom
from synapse_rejection_repair.domain.imports import (
    ImportProgress,
    ImportRequest,
    Skip,
    Skipped,
    Summary,
)
from synapse_rejection_repair.domain.source import BEGINNING, Position, SourceEvent
from synapse_rejection_repair.domain.visibility import hidden_from


def test_progress_is_kept_as_json() -> None:
    progress = ImportProgress(
        total=9,
        done=4,
        imported=3,
        skipped={"missing_json": 1},
        events_per_second=1.5,
        cursor=Position(3, -4),
        reserved=((-9, -7), (-5, -5)),
        lowest=-9,
    )
    for one in (progress, ImportProgress()):
        assert ImportProgress.from_json(json.loads(json.dumps(one.to_json()))) == one
    request = ImportRequest("old", verify_signatures=True, events_per_second=5)
    assert ImportRequest.from_json(json.loads(json.dumps(request.to_json()))) == request


def test_a_summary_counts_every_reason_once() -> None:
    # What is here in full is no part of a forecast, states are those that the source has, and
    # nothing is stored.
    never_foretold = {Skip.REJECTED_HERE, Skip.UNKNOWN_STATE, Skip.UNSTORABLE}
    counted = Counter(reason for reasons in COUNTED.values() for reason in reasons)
    assert counted == Counter(set(Skip) - never_foretold)
    assert COUNTED.keys() <= attr.fields_dict(Summary).keys()


def test_progress_counts() -> None:
    progress = ImportProgress(total=5, reserved=((-9, -5),)).stored(2, orderings=[-9, -6])
    assert (progress.imported, progress.done) == (2, 2)
    assert progress.reserved == ((-8, -7), (-5, -5))
    lost = [Skipped("$a", Skip.MISSING_JSON), Skipped("$b", Skip.MISSING_JSON)]
    progress = progress.passed(Position(4, 1), lost)
    assert (progress.done, progress.skipped) == (4, {"missing_json": 2})
    assert progress.passed(None, []).cursor == Position(4, 1)
    # What was not counted beforehand is found on the way: no more is done than there is.
    assert (progress.total, progress.passed(None, lost).total) == (5, 6)


def test_how_long_it_still_takes() -> None:
    progress = ImportProgress(total=5, done=2)
    assert progress.eta_ms is None
    progress = attr.evolve(progress, events_per_second=1.5)
    assert progress.eta_ms == 2000
    assert progress.stored(3, orderings=[]).eta_ms == 0


def test_references_of_all_room_versions() -> None:
    def event(**pdu: object) -> SourceEvent:
        return SourceEvent("$e", BEGINNING, dict(pdu))

    assert event(prev_events=["$a", "$b"]).prev_event_ids == (
        "$a",
        "$b",
    )
    assert event(prev_events=[["$a", {"sha256": "x"}]]).prev_event_ids == ("$a",)
    assert event(auth_events=[1, None, [], {}, "$a"]).auth_event_ids == ("$a",)
    odd: list[object] = [None, "x", {}, 3]
    for nonsense in odd:
        assert event(prev_events=nonsense).prev_event_ids == ()
    assert SourceEvent("$e", BEGINNING, None).auth_event_ids == ()


def test_children_wait_for_their_parents() -> None:
    room = WaitingRoom()
    room.let_go_one()
    assert room.earliest() is None and not room.any_ready()
    room.wait("late", Position(2, 2), ["a", "b"])
    room.wait("early", Position(1, 1), ["a"])
    room.wait("last", Position(3, 3), ["late"])
    assert "late" in room and len(room) == 3
    assert room.earliest() == Position(1, 1)
    room.decided("nobody")
    assert room.ready(9) == []
    room.decided("a")
    assert room.any_ready() and room.earliest() == Position(2, 2)
    assert room.ready(9) == ["early"]
    room.decided("b")
    # What is given is decided: what waited for it can be given with it.
    assert room.ready(1) == ["late"]
    assert room.ready(9) == ["last"]
    assert len(room) == 0 and not room.any_ready()


def test_a_cycle_is_let_go_at_its_first() -> None:
    room = WaitingRoom()
    room.wait("b", Position(2, 0), ["a"])
    room.wait("a", Position(1, 0), ["b"])
    room.let_go_one()
    assert room.ready(9) == ["a", "b"]


JOIN, INVITE, LEAVE = ({"membership": m} for m in ("join", "invite", "leave"))


@pytest.mark.parametrize(
    ("setting", "members", "hidden"),
    [
        ("shared", [], False),
        ("world_readable", [], False),
        ("joined", [], True),
        ("joined", [INVITE], True),
        ("joined", [LEAVE, JOIN], False),
        ("invited", [], True),
        ("invited", [LEAVE], True),
        ("invited", [INVITE], False),
        ("invited", [JOIN], False),
        ("nonsense", [], False),
        (None, [], False),
    ],
)
def test_who_may_see(setting: str | None, members: list[object], hidden: bool) -> None:
    assert hidden_from({"history_visibility": setting}, [*members, None]) is hidden
    assert hidden_from(None, members) is False
