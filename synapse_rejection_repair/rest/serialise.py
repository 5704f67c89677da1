"""Turning answers into JSON, with Synapse's own conventions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import attr

from synapse_rejection_repair.domain.job import Job
from synapse_rejection_repair.domain.listing import Listing, Page
from synapse_rejection_repair.domain.model import JsonDict, StateChange

Row = TypeVar("Row")


def listing(
    plural: str, found: Listing[Row], page: Page, row: Callable[[Row], JsonDict]
) -> JsonDict:
    """A page of a list: its rows, how many there are, and where the next page begins."""
    answer: JsonDict = {plural: [row(r) for r in found.rows], "total": found.total}
    end = page.start + len(found.rows)
    if found.rows and end < found.total:
        answer["next_token"] = str(end)
    return answer


def state_change(change: StateChange) -> JsonDict:
    """A change of one entry of the current state."""
    return {
        "type": change.type,
        "state_key": change.state_key,
        "from": change.before,
        "to": change.after,
    }


def job(job: Job) -> JsonDict:
    """A repair's progress."""
    shown = ("room_id", "total", "done", "accepted", "rejected", "error")
    values = attr.asdict(job, recurse=False)
    return {
        "repair_id": job.job_id,
        "status": job.status.value,
        **{name: values[name] for name in shown},
        "state_changes": [state_change(c) for c in job.state_changes],
        "created_ts": job.created_ts,
        "started_ts": job.started_ts,
        "finished_ts": job.finished_ts,
    }
