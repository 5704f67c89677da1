"""Which roots noticed rejections have, and what of it is an alert."""

from __future__ import annotations

from synapse_rejection_repair.domain.watch import (
    MAX_ROOTS,
    Begun,
    Behind,
    Recorded,
    Seen,
    cascades_begun,
    newest,
    raised,
    roots_behind,
)

# Roots.


def test_who_cites_a_root_follows_it() -> None:
    assert roots_behind(["$x"], {"$x": Behind()}) == ("$x",)
    assert roots_behind([], {"$x": Behind()}) == ()


def test_roots_are_found_through_others() -> None:
    ancestry = {
        "$x": Behind(),
        "$y": Behind(),
        "$join": Behind(parents=("$x",)),
        "$name": Behind(parents=("$join", "$y")),
    }
    assert roots_behind(["$name"], ancestry) == ("$x", "$y")
    assert roots_behind(["$name", "$x"], ancestry) == ("$x", "$y")


def test_what_is_recorded_is_not_looked_behind() -> None:
    ancestry = {"$a": Behind(roots=("$x", "$y")), "$b": Behind(roots=())}
    assert roots_behind(["$a"], ancestry) == ("$x", "$y")
    assert roots_behind(["$b"], ancestry) == ("$b",)


def test_what_is_too_far_up_has_no_root() -> None:
    assert roots_behind(["$a"], {"$a": Behind(parents=("$far",))}) == ()
    assert roots_behind(["$a", "$x"], {"$a": Behind(parents=("$far",)), "$x": Behind()}) == ("$x",)


def test_cycles_have_no_root() -> None:
    ancestry = {"$a": Behind(parents=("$b",)), "$b": Behind(parents=("$a",))}
    assert roots_behind(["$a"], ancestry) == ()


def test_roots_are_bounded() -> None:
    many = tuple(f"${number}" for number in range(1000))
    assert len(roots_behind(["$a"], {"$a": Behind(roots=many)})) == MAX_ROOTS
    assert len(roots_behind(many, {i: Behind() for i in many})) == MAX_ROOTS


# Cascades.


def test_a_cascade_begins_after_so_many() -> None:
    seen = [Seen("$x", 10, ()), *(Seen(f"${n}", 20 + n, ("$x",)) for n in range(3))]
    assert cascades_begun(seen[:3], 3) == []
    assert cascades_begun(seen, 3) == [Begun("$x", 3, 10)]
    assert cascades_begun(reversed(seen), 3) == [Begun("$x", 3, 10)]
    assert cascades_begun([], 1) == []


def test_a_root_that_was_not_noticed() -> None:
    seen = [Seen("$b", 30, ("$x",)), Seen("$a", 20, ("$x",))]
    assert cascades_begun(seen, 2) == [Begun("$x", 2, 20)]


def test_roots_do_not_hide_each_other() -> None:
    seen = [Seen("$a", 1, ("$x", "$y")), Seen("$b", 2, ("$y",)), Seen("$c", 3, ("$y", "$z"))]
    assert cascades_begun(seen, 2) == [Begun("$y", 3, 1)]
    assert [b.root for b in cascades_begun(seen, 1)] == ["$x", "$y", "$z"]


def test_alerts() -> None:
    begun = [Begun("$x", 3, 10), Begun("$y", 4, 11), Begun("$repaired", 9, 12)]
    x, y = raised(
        "!r", begun, {"$x", "$y"}, {"$x": Recorded("auth_events", "403: No", 10)}, now_ms=50
    )
    assert (x.event_id, x.check, x.error) == ("$x", "auth_events", "403: No")
    assert (x.first_ts, x.alerted_ts, x.cascade) == (10, 50, 3)
    assert (y.event_id, y.check, y.error, y.cascade) == ("$y", None, None, 4)


def test_the_newest_alerts_are_kept() -> None:
    alerted = {"$a": 1, "$b": 2, "$c": 3}
    assert newest([], alerted, 3) == ([], [])
    assert newest([Begun("$b", 9, 2)], alerted, 3) == ([], [])
    x, old = Begun("$x", 3, 10), Begun("$old", 3, 0)
    assert newest([x], alerted, 4) == ([x], [])
    assert newest([x], alerted, 3) == ([x], ["$a"])
    # What is older than all that is kept has been told of before.
    assert newest([old, x], alerted, 3) == ([x], ["$a"])
    assert newest([old], {"$b": 2, "$c": 3, "$x": 10}, 3) == ([], [])
    assert newest([old], alerted, 4) == ([old], [])
    assert newest([old, x], {}, 1) == ([x], [])
