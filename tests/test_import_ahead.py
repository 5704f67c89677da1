"""What an import does ahead of time, and what it knows of states without asking again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse_rejection_repair.adapter.group_states import GroupStates
from synapse_rejection_repair.ahead import Ahead

T = TypeVar("T")


class Loop:
    """Begins work as the reactor does."""

    def begin(self, work: Callable[[], Awaitable[T]]) -> Awaitable[T]:
        return asyncio.ensure_future(work())


def ahead(items: AsyncGenerator[T, None]) -> Ahead[T]:
    return Ahead(Loop(), items)  # type: ignore[arg-type]


def test_the_next_is_begun_before_it_is_asked_for() -> None:
    log: list[str] = []

    async def items() -> AsyncGenerator[int, None]:
        try:
            for number in (1, 2, 3):
                await asyncio.sleep(0)
                log.append(f"made {number}")
                yield number
        finally:
            log.append("closed")

    async def use() -> None:
        coming = ahead(items())
        while (number := await coming.next()) is not None:
            coming.begin()
            coming.begin()
            await asyncio.sleep(0.01)
            log.append(f"used {number}")
        assert await coming.next() is None
        await coming.close()

    asyncio.run(use())
    assert log == ["made 1", "made 2", "used 1", "made 3", "used 2", "closed", "used 3"]


def test_what_was_begun_in_vain_is_waited_for() -> None:
    log: list[str] = []

    async def items() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.sleep(0.01)
            log.append("read")
            raise RuntimeError
        finally:
            log.append("closed")

    async def stop() -> None:
        coming = ahead(items())
        assert await coming.next() == 1
        coming.begin()
        await coming.close()
        log.append("over")

    async def fail() -> None:
        coming = ahead(items())
        assert await coming.next() == 1
        coming.begin()
        with pytest.raises(RuntimeError):
            await coming.next()
        await coming.close()

    asyncio.run(stop())
    assert log == ["read", "closed", "over"]
    asyncio.run(fail())


KEYS = [("m.room.member", "@a"), ("m.room.member", "@b"), ("m.room.topic", "")]
changes = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(["$1", "$2", "$3"]), max_size=2)


@given(
    # For each group: the one before it, whether the import made it, and what it changes.
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), changes), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 11), st.sets(st.sampled_from(KEYS))), max_size=12),
)
def test_states_are_followed_back(
    made: list[tuple[int, bool, dict[Any, str]]], asked: list[tuple[int, set[Any]]]
) -> None:
    states: dict[int, dict[Any, str]] = {}
    reads: list[int] = []

    async def read(group: int, which: Any) -> dict[Any, str]:
        reads.append(group)
        return {key: value for key, value in states[group].items() if key in which.types_list}

    class Filter:
        def __init__(self, keys: Any) -> None:
            self.types_list = list(keys)

    controller = SimpleNamespace(
        get_state_ids_for_group=lambda group, which: read(group, Filter(which.concrete_types()))
    )
    hs: Any = SimpleNamespace(get_storage_controllers=lambda: SimpleNamespace(state=controller))
    known, ours = GroupStates(hs), set()
    for group, (back, by_us, change) in enumerate(made):
        before = group - 1 - back
        states[group] = {**states.get(before, {}), **change}
        if by_us and before >= 0:
            ours.add(group)
            both = {(before, group): change, (group, group): {}}
            deltas: Any = SimpleNamespace(state_group_deltas=both)
            known.learn(deltas)
    for group, keys in asked:
        group %= len(made)
        found = asyncio.run(known.entries(group, keys))
        assert found == {key: states[group][key] for key in keys if key in states[group]}
        count = len(reads)
        assert asyncio.run(known.entries(group, keys)) == found
        assert len(reads) == count, "asked again"
    assert ours.isdisjoint(reads)
