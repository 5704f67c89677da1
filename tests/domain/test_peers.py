"""What is made of other servers' answers."""

from __future__ import annotations

from synapse_rejection_repair.domain.peers import (
    Held,
    PeerAnswer,
    StateDifference,
    in_turn,
    report,
)

LEVELS, TOPIC, NAME = ("levels", ""), ("topic", ""), ("name", "")


def test_who_is_asked() -> None:
    joined = ["a", "b", "c", "d"]
    assert in_turn(joined, "c") == ["c", "a", "b", "d"]
    assert in_turn(joined, "elsewhere") == joined


def test_where_the_states_differ() -> None:
    ours = {LEVELS: "$x", TOPIC: "$t"}
    keys = {"$x": LEVELS, "$y": LEVELS, "$t": TOPIC, "$n": NAME}
    answers = [
        PeerAnswer("same", Held.HOLDS, state_ids=frozenset({"$x", "$t"})),
        PeerAnswer("other", Held.HOLDS, state_ids=frozenset({"$y", "$t", "$n", "$unknown"})),
        PeerAnswer("too", Held.HOLDS, state_ids=frozenset({"$y", "$t"})),
        PeerAnswer("silent", Held.NO_ANSWER, "No answer"),
        PeerAnswer("without", Held.DOES_NOT_HOLD),
    ]
    found = report(answers, ours, keys)
    assert [found.count(h) for h in Held] == [3, 1, 1]
    assert found.unknown == 1
    assert found.disagree == {"other", "too"}
    assert sorted(found.differences, key=repr) == sorted(
        [
            StateDifference("levels", "", "$x", "$y", ("other", "too")),
            StateDifference("name", "", None, "$n", ("other",)),
        ],
        key=repr,
    )


def test_missing_entries_are_seen() -> None:
    answers = [PeerAnswer("a", Held.HOLDS, state_ids=frozenset({"$t"}))]
    found = report(answers, {LEVELS: "$x", TOPIC: "$t"}, {"$x": LEVELS, "$t": TOPIC})
    assert found.differences == (StateDifference("levels", "", "$x", None, ("a",)),)


def test_what_is_not_known_here_differs() -> None:
    answers = [PeerAnswer("a", Held.HOLDS, state_ids=frozenset({"$x", "$unknown"}))]
    found = report(answers, {LEVELS: "$x"}, {"$x": LEVELS})
    assert found.differences == ()
    assert (found.unknown, found.disagree) == (1, frozenset({"a"}))
