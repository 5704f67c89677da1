"""Ranges of stream orderings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from synapse_rejection_repair.domain.spans import lowest_of, spans_of, together, without

numbers = st.sets(st.integers(-60, 60))


@given(numbers, st.integers(0, 130))
def test_orderings_are_given_out_lowest_first(some: set[int], count: int) -> None:
    spans = spans_of(some)
    assert lowest_of(spans, count) == sorted(some)[:count]
    assert spans_of(lowest_of(spans, len(some))) == spans


@given(numbers, numbers)
def test_those_are_used_up_that_were_taken(some: set[int], taken: set[int]) -> None:
    assert without(spans_of(some), taken) == spans_of(some - taken)


@given(numbers, numbers)
def test_ranges_go_together(some: set[int], others: set[int]) -> None:
    assert together(spans_of(some), spans_of(others)) == spans_of(some | others)
