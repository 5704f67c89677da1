"""What counts as missing, and since when."""

from __future__ import annotations

from synapse_rejection_repair.domain.facts import RoomFacts
from synapse_rejection_repair.domain.gaps import Gap, Membership, Missing, gaps_behind, stay_began
from synapse_rejection_repair.domain.scope import Scope
from tests.domain.drawing import draw


def changes(text: str) -> list[Membership]:
    """`3+bob 9-bob`: bob joins at depth 3, and is out from 9 on."""
    return [
        Membership(int(word[:-4]), number, word[-3:], word[-4] == "+")
        for number, word in enumerate(text.split())
    ]


def test_the_stay_began_when_the_first_of_us_came() -> None:
    assert stay_began([]) is None
    assert stay_began(changes("3+bob 5+eve 9-bob")) == 3
    assert stay_began(changes("3+bob 5-bob")) == 3
    assert stay_began(changes("3+bob 5-bob 9+eve 12+bob")) == 9
    # A change of the name is no arrival, and who never came cannot leave.
    assert stay_began(changes("2-eve 3+bob 5+bob 7-eve")) == 3
    # What counts is the room's history, in whatever order it was stored.
    assert stay_began(changes("9+eve 3+bob 5-bob")) == 9


def test_a_gap_is_behind_what_is_accepted() -> None:
    missing = {"P": ["A", "R"], "Q": ["R"], "S": ["T"]}
    assert gaps_behind(missing, set(), {"R", "T"}) == (Gap("P", ("A",)),)
    assert gaps_behind(missing, {"R"}, {"R", "T"}) == (Gap("P", ("A", "R")), Gap("Q", ("R",)))


def facts(since: int | None, *, tips: bool = False) -> RoomFacts:
    return RoomFacts(
        room_id="!r",
        room_version="11",
        suspects=draw("R*; T*"),
        stale={},
        unindexed={},
        unfinished={},
        current_state={},
        extremities=frozenset(),
        bad_extremities=frozenset(),
        defects={},
        gaps=Missing(
            {"P": {"A": 9}, "Q": {"R": 9}, "S": {"T": 9}, "O": {"B": 1}},
            draw("I[member @u:a] <- R; J[member @v:a] <- T; K[member @w:a] <- A") if tips else {},
            since,
        ),
    )


def test_a_repair_of_a_part_asks_for_what_is_behind_that_part() -> None:
    room = facts(since=5)
    received = [room.suspects["R"]]
    assert room.suspects["R"].depth == 1
    assert [g.event_id for g in room.gaps_for(Scope(), received)] == ["P", "Q"]
    for scope in (Scope(frozenset({"R"})), Scope(since_ts=1), Scope(until_ts=9)):
        assert [g.event_id for g in room.gaps_for(scope, received)] == ["Q"]


def test_only_what_is_missing_since_the_first_wrong_rejection_counts() -> None:
    assert facts(since=None).gaps_for(Scope(), []) == ()
    assert [g.event_id for g in facts(since=8).gaps_for(Scope(), [])] == ["P"]
    assert [g.event_id for g in facts(since=0).gaps_for(Scope(), [])] == ["O", "P"]
    assert facts(since=9).gaps_for(Scope(), []) == ()


def test_a_membership_at_the_end_is_missing_where_what_it_follows_is_accepted() -> None:
    room = facts(since=0, tips=True)
    received = [room.suspects["R"]]
    assert {*room.gaps_for(Scope(), received)} >= {Gap("I", ()), Gap("K", ())}
    assert Gap("J", ()) not in room.gaps_for(Scope(), received)
    assert {*room.gaps_for(Scope(), [])} >= {Gap("K", ())}
    # None of it is behind a part of the room, and above the first rejection nothing counts.
    assert room.gaps_for(Scope(frozenset({"R"})), received) == (Gap("Q", ("R",)),)
    assert facts(since=1, tips=True).gaps_for(Scope(), []) == (Gap("P", ("A",)),)
    assert facts(since=None, tips=True).gaps_for(Scope(), []) == ()
