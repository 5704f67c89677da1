"""What may be repaired without an admin, on the in-memory server of `world`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import attr
import pytest

from synapse_rejection_repair.domain.healing import not_confirmed, why_not
from synapse_rejection_repair.domain.peers import Held, PeerAnswer, PeerReport
from synapse_rejection_repair.domain.scope import Scope
from tests.domain.test_planner import erring
from tests.domain.world import World, run

INCIDENT = "X*[power_levels] <- P cites P; A <- X cites X; B[name] <- A cites X"
HOLDS, LACKS, SILENT = Held.HOLDS, Held.DOES_NOT_HOLD, Held.NO_ANSWER


def asked(*answers: Held, disagree: int = 0) -> PeerReport:
    """What servers answer; the first of them have another state before the event."""
    told = tuple(PeerAnswer(f"s{n}", a) for n, a in enumerate(answers))
    return PeerReport(told, (), 0, frozenset(f"s{n}" for n in range(disagree)))


def reason(world: World, peers: PeerReport, most: int = 3, root: str = "X") -> str | None:
    facts = run(world.facts())
    plan = world.plan(Scope(event_ids=frozenset({root})))
    return why_not(facts, root, plan, most) or not_confirmed(peers)


def test_a_root_and_its_cascade() -> None:
    assert reason(erring(INCIDENT), asked(HOLDS)) is None
    # Another root in the room is another matter.
    assert reason(erring(INCIDENT + "; Y*[topic] <- P cites P"), asked(HOLDS)) is None


@pytest.mark.parametrize(
    ("answers", "waits"),
    [
        ((HOLDS,), False),
        ((HOLDS, SILENT, SILENT, SILENT), False),
        ((HOLDS, HOLDS, LACKS), False),
        ((HOLDS, LACKS), True),
        ((HOLDS, LACKS, LACKS), True),
        ((LACKS,), True),
        ((SILENT,), True),
        ((), True),
    ],
)
def test_what_peers_hold(answers: tuple[Held, ...], waits: bool) -> None:
    found = reason(erring(INCIDENT), asked(*answers))
    assert (found is not None and "other servers" in found) is waits


@pytest.mark.parametrize(
    ("disagree", "answers", "waits"),
    [
        (1, (HOLDS, HOLDS, HOLDS), False),
        (1, (HOLDS, HOLDS, HOLDS, SILENT), False),
        (1, (HOLDS, HOLDS, HOLDS, LACKS), True),
        (1, (HOLDS, HOLDS), True),
        (2, (HOLDS, HOLDS, HOLDS), True),
        (1, (HOLDS, SILENT), True),
    ],
)
def test_another_state_at_peers(disagree: int, answers: tuple[Held, ...], waits: bool) -> None:
    found = reason(erring(INCIDENT), asked(*answers, disagree=disagree))
    assert (found is not None and "another state before it" in found) is waits


@pytest.mark.parametrize(
    ("drawing", "powers", "says"),
    [
        pytest.param(
            INCIDENT + "; C2 <- B cites X", None, "touch 4 events", id="the cascade is too big"
        ),
        pytest.param(
            "X*[topic] <- P cites P; A <- X cites P; B <- A cites P; D <- B cites P",
            None,
            "touch 4 events",
            id="too many states behind it",
        ),
        pytest.param(
            "X[power_levels] <- P cites P by @mallory:a; A <- X cites X",
            None,
            "does not pass",
            id="rejected rightly",
        ),
        pytest.param(
            "X*[power_levels] <- P cites P; A <- X cites X; B[name] <- A cites X by @mallory:a",
            None,
            "1 events that follow it",
            id="one that follows is rejected rightly",
        ),
        pytest.param("X[topic] <- P cites P", None, "not rejected any more", id="no root any more"),
    ],
)
def test_what_waits(drawing: str, powers: Mapping[str, Collection[str]] | None, says: str) -> None:
    found = reason(erring(drawing, powers), asked(HOLDS))
    assert found is not None and says in found


def test_a_room_with_something_else_wrong() -> None:
    world = erring(INCIDENT)
    world.unindexed = {"P"}
    assert "Something else" in (reason(world, asked(HOLDS)) or "")


def test_a_state_that_becomes_something_else() -> None:
    world = erring(INCIDENT)
    facts = run(world.facts())
    plan = world.plan(Scope(event_ids=frozenset({"X"})))
    gone = attr.evolve(plan.state_changes[0], after=None)
    other = attr.evolve(plan.state_changes[0], after="P")
    for change in (gone, other):
        changed = attr.evolve(plan, state_changes=(*plan.state_changes, change))
        assert "1 entries" in (why_not(facts, "X", changed, 3) or "")
