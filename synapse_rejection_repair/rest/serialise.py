"""Turning answers into JSON, with Synapse's own conventions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import attr

from synapse_rejection_repair.domain.borrowed import BorrowedState
from synapse_rejection_repair.domain.imports import ImportJob
from synapse_rejection_repair.domain.listing import Listing, Page
from synapse_rejection_repair.domain.model import JsonDict, Node, StateChange, Verdict
from synapse_rejection_repair.domain.peers import Held, PeerReport
from synapse_rejection_repair.domain.repair import RepairJob

Row = TypeVar("Row")
MOST_SHOWN = 1000
"""How many entries are shown at most of a list that has no pages."""


def listing(
    plural: str, found: Listing[Row], page: Page, row: Callable[[Row], JsonDict]
) -> JsonDict:
    """A page of a list: its rows, how many there are, and where the next page begins."""
    answer: JsonDict = {plural: [row(r) for r in found.rows], "total": found.total}
    end = page.start + len(found.rows)
    if found.rows and end < found.total:
        answer["next_token"] = str(end)
    return answer


def verdict(found: Verdict) -> JsonDict:
    """The outcome of an event's checks."""
    return {
        "verdict": found.outcome.value,
        "check": found.check.value if found.check else None,
        "error": found.error,
    }


def judged(node: Node, found: Verdict) -> JsonDict:
    """An event with its verdict."""
    return {
        "event_id": node.event_id,
        "type": node.type,
        "state_key": node.state_key,
        "sender": node.sender,
        "origin_server_ts": node.origin_server_ts,
        **verdict(found),
    }


def state_change(change: StateChange) -> JsonDict:
    """A change of one entry of the current state."""
    return {
        "type": change.type,
        "state_key": change.state_key,
        "from": change.before,
        "to": change.after,
    }


def repair(job: RepairJob) -> JsonDict:
    """A repair's progress."""
    progress = job.progress
    return {
        "repair_id": job.job_id,
        "undoes": job.request.undoes,
        "state_from": job.request.state_from,
        "automatic": job.request.automatic,
        "room_id": job.room_id,
        "status": job.status.value,
        "total": progress.total,
        "done": progress.done,
        "accepted": progress.accepted,
        "rejected": progress.rejected,
        "fetched": progress.fetched,
        "error": job.error,
        "state_changes": [state_change(c) for c in progress.state_changes],
        "created_ts": job.created_ts,
        "started_ts": job.started_ts,
        "finished_ts": job.finished_ts,
    }


def import_(job: ImportJob) -> JsonDict:
    """An import's progress."""
    progress = job.progress
    return {
        "import_id": job.job_id,
        "room_id": job.room_id,
        "source": job.request.source,
        "status": job.status.value,
        "total": progress.total,
        "done": progress.done,
        "imported": progress.imported,
        "skipped": dict(progress.skipped),
        "media": {
            "copied": progress.media.copied,
            "bytes": progress.media.bytes,
            "skipped": dict(progress.media.skipped),
        },
        "events_per_second": progress.events_per_second,
        "eta_ms": None if job.status.over else progress.eta_ms,
        "error": job.error,
        "created_ts": job.created_ts,
        "started_ts": job.started_ts,
        "finished_ts": job.finished_ts,
    }


def borrowed(state: BorrowedState, server: str) -> JsonDict:
    """What a state that is taken from another server changes against ours."""
    return {
        "event_id": state.event_id,
        "server": server,
        "state_differences": [
            {"type": c.type, "state_key": c.state_key, "ours": c.before, "theirs": c.after}
            for c in state.difference[:MOST_SHOWN]
        ],
        "differences_total": len(state.difference),
    }


def peer_report(report: PeerReport) -> JsonDict:
    """What other servers say of an event."""
    return {
        **{answer.value: report.count(answer) for answer in Held},
        "servers": [
            {"server": a.server, "answer": a.answer.value, "error": a.error} for a in report.answers
        ],
        "state_differences": [
            {**attr.asdict(d), "servers": list(d.servers)} for d in report.differences[:MOST_SHOWN]
        ],
        "unknown_events": report.unknown,
    }
