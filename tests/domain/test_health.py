from __future__ import annotations

import pytest

from synapse_rejection_repair.domain import health
from synapse_rejection_repair.domain.health import Finding, healthy, problem


@pytest.mark.parametrize("check", Finding)
def test_no_event_no_problem(check: Finding) -> None:
    assert problem(check, []) == []


@pytest.mark.parametrize("check", Finding)
def test_every_finding_says_what_it_means(check: Finding) -> None:
    (found,) = problem(check, iter(f"$e{n}" for n in range(25)))
    assert (found.check, found.count, found.repairable) == (check, 25, True)
    assert found.events == tuple(f"$e{n}" for n in range(health.EXAMPLES))
    assert found.detail.startswith("25 ")
    assert len(found.detail) > 20
    others = {p.detail for other in Finding if other is not check for p in problem(other, "x" * 25)}
    assert found.detail not in others


def test_repairable_as_told() -> None:
    assert [p.repairable for p in problem(Finding.REJECTED, ["$a"], repairable=False)] == [False]


def test_few_events_are_all_shown() -> None:
    (found,) = problem(Finding.MISSING_EDGES, ["$b", "$a"])
    assert (found.count, found.events) == (2, ("$b", "$a"))


def test_healthy() -> None:
    assert healthy([])
    # What is rightly kept out is as it should be.
    rejected = [
        *problem(Finding.REJECTED, ["$a"], repairable=False),
        *problem(Finding.SOFT_FAILED, ["$a"], repairable=False),
    ]
    assert healthy(rejected)
    for check in set(Finding) - {Finding.REJECTED, Finding.SOFT_FAILED}:
        assert not healthy(problem(check, ["$a"])), check
        assert not healthy([*rejected, *problem(check, ["$a"])]), check
