"""The drawings themselves: a test on a drawing that is misread proves nothing."""

from __future__ import annotations

import pytest

from synapse_rejection_repair.domain.model import Node
from tests.domain.drawing import draw


def test_everything_that_can_be_drawn() -> None:
    nodes = draw(
        """
        X*[topic]
        A~!@-7[member @u:a] <- X, Y cites X,Z by @bob:b:80
        B <- A; C
        """
    )
    assert list(nodes) == ["X", "A", "B", "C"]
    assert nodes["X"] == Node(
        "X", "m.room.topic", "", "@alice:a", 1000, 1, 1, (), (), rejected="auth_error"
    )
    assert nodes["A"] == Node(
        *("A", "m.room.member", "@u:a", "@bob:b:80", -7000, 2, -7, ("X", "Y"), ("X", "Z")),
        outlier=True,
        damaged=True,
    )
    assert nodes["B"] == Node("B", "m.room.message", None, "@alice:a", -6000, 3, -6, ("A",), ())
    assert nodes["C"].prev_event_ids == ()
    assert nodes["A"].server == "b:80"
    assert (nodes["A"].key, nodes["B"].key) == (("m.room.member", "@u:a"), None)


@pytest.mark.parametrize("text", ["A <-", "A <- B C", "A follows B", "A[topic", "A by"])
def test_what_is_not_understood(text: str) -> None:
    with pytest.raises(ValueError, match="not understood"):
        draw(text)
