"""Which events were forward extremities when another one arrived."""

from __future__ import annotations

from synapse_rejection_repair.domain.model import Node
from synapse_rejection_repair.domain.tips import FOREVER, Spell, Tips, with_received
from tests.domain.drawing import draw


def at(nodes: dict[str, Node], position: int) -> set[str]:
    """The same, event by event, from what had arrived by then."""
    here = {i: n for i, n in nodes.items() if n.stream_ordering < position}
    return here.keys() - {p for n in here.values() for p in n.prev_event_ids}


DRAWING = """
A
B <- A
C <- A
D <- B
E <- C, D
F <- E
G <- E
"""


def test_at_every_time_what_nothing_followed_yet() -> None:
    nodes = draw(DRAWING)
    tips = Tips(with_received({}, (), nodes.values()))
    for position in range(len(nodes) + 3):
        assert tips.at(position) == at(nodes, position), position


def test_what_is_stored_counts_only_where_it_stood() -> None:
    stored = {"A": Spell(1, 5), "R": Spell(2, 7), "B": Spell(3)}
    spells = with_received(stored, ["A", "B"], draw("X@4 <- A").values())
    assert spells == {"A": Spell(1, 4), "B": Spell(3), "X": Spell(4)}
    assert stored["A"] == Spell(1, 5)


def test_what_is_let_through_is_followed_from_then_on() -> None:
    nodes = draw(DRAWING)
    late = nodes.pop("G")
    tips = Tips(with_received({}, (), nodes.values()))
    assert tips.at(late.stream_ordering) == {"F"}
    tips.accept(late)
    assert tips.at(late.stream_ordering) == {"F"}
    assert tips.at(late.stream_ordering + 1) == {"F", "G"}
    tips = Tips({"E": Spell(1), "Z": Spell(3)})
    tips.accept(late, until=20)
    assert tips.at(late.stream_ordering + 1) == {"Z", "G"}
    assert tips.at(20) == {"Z", "G"}
    assert tips.at(21) == {"Z"}
    assert tips.at(FOREVER) == {"Z"}
