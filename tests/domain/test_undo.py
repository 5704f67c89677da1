"""What undoing a repair has to do."""

from __future__ import annotations

import json

import pytest

from synapse_rejection_repair.domain.model import StateChange
from synapse_rejection_repair.domain.repair import RepairProgress
from synapse_rejection_repair.domain.steps import Action
from synapse_rejection_repair.domain.undo import changes_back, done_with

TOPIC = ("m.room.topic", "")


def test_the_first_rows_are_all_there_was() -> None:
    entries = [
        ("$a", "restate"),
        ("$a", "receive"),
        ("$b", "restate"),
        ("$b", "index"),
        ("$c", "reject"),
        ("$c", "index"),
    ]
    assert done_with(entries) == {
        "$a": (Action.RECEIVE,),
        "$b": (Action.INDEX, Action.RESTATE),
        "$c": (Action.REJECT,),
    }


def test_the_state_changes_back_unless_it_has_changed_again() -> None:
    change = StateChange(*TOPIC, before="$old", after="$new")
    assert changes_back([change], {TOPIC: "$new"}) == (
        StateChange(*TOPIC, before="$new", after="$old"),
    )
    assert changes_back([change], {TOPIC: "$newer"}) == ()
    gone = StateChange(*TOPIC, before="$old", after=None)
    assert changes_back([gone], {}) == (StateChange(*TOPIC, before=None, after="$old"),)


@pytest.mark.parametrize("ended", [None, (), ("$a", "$b")])
def test_a_job_keeps_where_the_room_ended(ended: tuple[str, ...] | None) -> None:
    progress = RepairProgress(start_position=7, start_extremities=ended)
    assert RepairProgress.from_json(json.loads(json.dumps(progress.to_json()))) == progress


def test_a_job_of_an_earlier_version_does_not_say_where_the_room_ended() -> None:
    kept = RepairProgress(start_position=7).to_json()
    del kept["start_extremities"]
    assert RepairProgress.from_json(kept).start_extremities is None
