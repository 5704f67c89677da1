from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from synapse_rejection_repair.domain.model import StateChange, StateKey, state_changes
from synapse_rejection_repair.domain.state import StateBook

POWER, TOPIC, NAME = (f"m.room.{name}" for name in ("power_levels", "topic", "name"))
P, T, N = (POWER, ""), (TOPIC, ""), (NAME, "")


def test_a_stored_group_is_itself() -> None:
    book = StateBook()
    assert book.resolve(7) == (7, {})
    assert book.resolve(7, [P]) == (7, {})
    assert book.derive(7, {}) == 7


def test_deltas_lie_over_their_base() -> None:
    book = StateBook()
    first = book.derive(7, {P: "p1", T: "t1"})
    second = book.derive(first, {T: "t2", N: "n2"})
    assert first < 0 and second < 0 and first != second
    assert book.resolve(first) == (7, {P: "p1", T: "t1"})
    assert book.resolve(second) == (7, {P: "p1", T: "t2", N: "n2"})
    assert book.resolve(second, [T]) == (7, {T: "t2"})
    assert book.resolve(second, iter([P, ("m.room.join_rules", "")])) == (7, {P: "p1"})
    assert book.resolve(second, []) == (7, {})


def test_an_entry_taken_away_is_told_apart_from_one_that_does_not_differ() -> None:
    book = StateBook()
    gone = book.derive(book.derive(7, {P: "p1", T: "t1"}), {P: None})
    assert book.resolve(gone) == (7, {P: None, T: "t1"})
    assert book.resolve(gone, [P, N]) == (7, {P: None})
    back = book.derive(gone, {P: "p2"})
    assert book.resolve(back, [P]) == (7, {P: "p2"})


def test_one_change_to_one_state_is_one_state() -> None:
    book = StateBook()
    assert book.derive(7, {P: "p1"}) == book.derive(7, {P: "p1"})
    assert book.derive(7, {P: "p1"}) != book.derive(7, {P: "p2"})
    assert book.derive(7, {P: "p1"}) != book.derive(8, {P: "p1"})
    assert book.derive(7, {P: "p1"}) != book.derive(7, {T: "p1"})
    assert book.derive(7, {P: None}) != book.derive(7, {P: "p1"})


def test_a_book_does_not_follow_what_its_arguments_become() -> None:
    book = StateBook()
    delta: dict[StateKey, str | None] = {P: "p1"}
    ref = book.derive(7, delta)
    delta[P] = "p2"
    _, found = book.resolve(ref)
    found[P] = "p3"
    assert book.resolve(ref) == (7, {P: "p1"})


def test_siblings_do_not_mix() -> None:
    book = StateBook()
    base = book.derive(7, {P: "p1"})
    left, right = book.derive(base, {T: "left"}), book.derive(base, {T: "right"})
    assert book.resolve(left) == (7, {P: "p1", T: "left"})
    assert book.resolve(right) == (7, {P: "p1", T: "right"})
    assert book.resolve(base) == (7, {P: "p1"})


def test_look_ups_are_bounded_however_long_the_chain() -> None:
    book = StateBook()
    ref = 7
    for number in range(1000):
        ref = book.derive(ref, {(TOPIC, str(number % 90)): f"t{number}"})
    group, found = book.resolve(ref)
    assert group == 7
    assert found == {(TOPIC, str(n % 90)): f"t{n}" for n in range(1000)}
    # What the promise of bounded look-ups means: few hops, not a thousand.
    hops = 0
    while (entry := book._derived.get(ref)) is not None:
        ref, hops = entry.base, hops + 1
    assert 1 <= hops <= 51


keys = st.sampled_from([P, T, N, (TOPIC, "x")])
deltas = st.dictionaries(keys, st.sampled_from(["a", "b", None]), max_size=2)


@given(st.lists(st.tuples(st.integers(0, 1000), deltas), min_size=1, max_size=150), st.sets(keys))
def test_a_book_is_as_good_as_copies(
    steps: list[tuple[int, dict[StateKey, str | None]]], wanted: set[StateKey]
) -> None:
    book = StateBook()
    known: list[tuple[int, dict[StateKey, str | None]]] = [(5, {})]
    for number, delta in steps:
        # Mostly onto the newest, so that chains get long.
        base, below = known[-1] if number % 4 else known[number // 4 % len(known)]
        known.append((book.derive(base, delta), {**below, **delta}))
    for ref, expected in known:
        assert book.resolve(ref) == (5, expected)
        some = {key: expected[key] for key in wanted if key in expected}
        assert book.resolve(ref, wanted) == (5, some)


def test_state_changes() -> None:
    before = {P: "p1", T: "t1", (TOPIC, "x"): "x1"}
    after = {P: "p2", N: "n1", (TOPIC, "x"): "x1"}
    assert state_changes(before, after) == [
        StateChange(NAME, "", None, "n1"),
        StateChange(POWER, "", "p1", "p2"),
        StateChange(TOPIC, "", "t1", None),
    ]
    assert state_changes(before, dict(before)) == []
    assert state_changes({}, {}) == []


def test_state_changes_of_one_type_are_sorted_by_state_key() -> None:
    member = "m.room.member"
    after = {(member, user): "e" for user in ("@c:a", "@a:a", "@b:a")}
    assert [c.state_key for c in state_changes({}, after)] == ["@a:a", "@b:a", "@c:a"]
    # Nothing about an event id is comparable with nothing.
    assert len(state_changes({(member, "@a:a"): "e"}, {(member, "@b:a"): "f"})) == 2
