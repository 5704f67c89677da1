"""What errors say of many events."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from synapse_rejection_repair.errors import NotRejected, NotStored, RepairError, UnknownEvents
from synapse_rejection_repair.errors_peers import NotHeldElsewhere

MANY = tuple(f"$event{n}" for n in range(1000))


@pytest.mark.parametrize(
    "make",
    [
        lambda ids: UnknownEvents("!room", ids),
        lambda ids: NotRejected("force", ids),
        lambda ids: NotStored(ids),
        lambda ids: NotHeldElsewhere("example.org", ids),
    ],
)
def test_an_error_names_the_first_events(make: Callable[[tuple[str, ...]], RepairError]) -> None:
    ten = ", ".join(MANY[:10])
    assert f" {ten} and 990 more" in str(make(MANY))
    assert f" {ten} and 1 more" in str(make(MANY[:11]))
    assert f" {ten}" in str(make(MANY[:10])) and " more" not in str(make(MANY[:10]))
