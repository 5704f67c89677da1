"""What an event says of itself that was an outlier."""

from __future__ import annotations

import json

import pytest

from synapse_rejection_repair.adapter.ex_outliers import completed

INVITE = json.dumps({"type": "m.room.member", "unsigned": {"invite_room_state": [], "age_ts": 5}})


@pytest.mark.parametrize(
    ("metadata", "left"),
    [
        ({"outlier": True, "out_of_band_membership": True, "soft_failed": True}, {"soft_failed"}),
        ({"out_of_band_membership": True}, set[str]()),
        ({"soft_failed": True}, {"soft_failed"}),
    ],
)
def test_it_is_none_any_more(metadata: dict[str, bool], left: set[str]) -> None:
    text, about = completed(INVITE, json.dumps(metadata), None)
    assert text == INVITE
    assert json.loads(about).keys() == left


def test_it_says_what_it_replaces() -> None:
    text, about = completed(INVITE, "{}", "$before")
    assert about == "{}"
    assert json.loads(text)["unsigned"] == {
        "invite_room_state": [],
        "age_ts": 5,
        "replaces_state": "$before",
    }
    assert completed(text, about, "$before") == (text, about)
    text, _ = completed('{"type": "m", "unsigned": 1}', "{}", "$b")
    assert json.loads(text) == {"type": "m", "unsigned": {"replaces_state": "$b"}}
    assert completed("no JSON", "none", "$b") == ("no JSON", "none")
