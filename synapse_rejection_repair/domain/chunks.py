"""A plan's steps, cut into what is carried out at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.steps import Step


def chunks(steps: Sequence[Step], size: int) -> Iterator[list[Step]]:
    """Cuts a plan into runs of steps that are carried out alike, none too long.

    Args:
        steps: the plan's steps.
        size: how many steps a run has at most.
    """
    for _, run in groupby(steps, key=lambda s: (s.action, s.backfill, s.kind.idle)):
        yield from batches(run, size)
