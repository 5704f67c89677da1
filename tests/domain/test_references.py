"""Which references of an event's JSON are ids that a database can be asked for."""

from __future__ import annotations

from typing import Any

import pytest

from synapse_rejection_repair.domain.references import is_id, references


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ("$event", True),
        ("$évènement:例え.jp", True),
        ("$🎉", True),
        ("$nul\0", False),
        ("$é\0", False),
        ("$half\ud800", False),
        ("$half\udfff", False),
        (["$event"], False),
        (None, False),
    ],
)
def test_ids(value: object, good: bool) -> None:
    """Text of any script is an id; what no database takes as text is none."""
    assert is_id(value) is good


@pytest.mark.parametrize(
    ("found", "ids"),
    [
        (["$a", "$b"], ("$a", "$b")),
        ([["$a", {"sha256": "x"}], ["$b", {}]], ("$a", "$b")),
        (["$a", [], {}, 1, None, [["$b"]], "$c\0"], ("$a",)),
        ("$a", ()),
        (None, ()),
    ],
)
def test_references(found: Any, ids: tuple[str, ...]) -> None:
    """Both forms of a reference are read, and whatever is none is left out."""
    assert references({"prev_events": found}, "prev_events") == ids
