"""A plan's steps, cut into what is carried out at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from synapse_rejection_repair.domain.batches import batches
from synapse_rejection_repair.domain.steps import Step

CHUNK = 200
"""How many events are stored at a time: what Synapse does once for all of them costs as much as
storing a dozen. It stores a hundred in one transaction.
"""


def chunks(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Cuts a plan into runs of steps that are carried out alike, none too long."""
    for _, run in groupby(steps, key=lambda s: (s.action, s.backfill, s.kind.idle)):
        yield from batches(run, CHUNK)
