"""Jobs and their journal, in the module's own tables: the `JobStore` of the inner rooms."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attr
from synapse.storage.database import LoggingTransaction
from synapse.util.stringutils import random_string

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.tables import JOBS, JOURNAL, create_tables
from synapse_rejection_repair.domain.job import Job, RepairRequest, Status
from synapse_rejection_repair.domain.listing import Listing, Page
from synapse_rejection_repair.domain.model import StateChange
from synapse_rejection_repair.domain.plan import Action, Deliver
from synapse_rejection_repair.domain.scope import Scope
from synapse_rejection_repair.errors import JobOver, JobRunning, UnknownJob
from synapse_rejection_repair.ports import Clock

KIND = "repair"
JOB_ORDER = ("created_ts", "room_id", "status", "total", "done", "started_ts", "finished_ts")
_COLUMNS = (
    "job_id, room_id, status, request, total, done, accepted, rejected, error, state_changes,"
    " created_ts, started_ts, finished_ts, start_position, cancel_requested"
)


class SynapseJobStore:
    """Keeps jobs in Synapse's database.

    Args:
        database: Synapse's.
        writes_room: whether this process writes the events of a room.
        clock: tells the time.
    """

    def __init__(
        self, database: Database, writes_room: Callable[[str], bool], clock: Clock
    ) -> None:
        self._database = database
        self._writes_room = writes_room
        self._clock = clock

    async def prepare(self) -> None:
        """Creates the module's tables where they are missing."""
        try:
            await self._database.run("create_tables", create_tables)
        except self._database.engine.module.DatabaseError:
            # Two processes that start at once can both find a table missing; on
            # PostgreSQL the slower one fails, and then finds it there.
            await self._clock.pause(1)
            await self._database.run("create_tables", create_tables)

    async def create(self, room_id: str, request: RepairRequest) -> Job:
        """A new job.

        Raises:
            JobRunning: the room has one that is not over.
        """
        job = Job(
            job_id=random_string(16),
            room_id=room_id,
            status=Status.SCHEDULED,
            request=request,
            created_ts=self._clock.now_ms(),
        )

        def create(txn: LoggingTransaction) -> str | None:
            txn.execute(
                f"INSERT INTO {JOBS} (kind, {_COLUMNS})"
                f" VALUES ({', '.join('?' for _ in range(16))})"
                " ON CONFLICT (room_id) WHERE status IN ('scheduled', 'active') DO NOTHING",
                (KIND, *_row(job)),
            )
            if txn.rowcount:
                return None
            txn.execute(
                f"SELECT job_id FROM {JOBS}"
                " WHERE room_id = ? AND status IN ('scheduled', 'active')",
                (room_id,),
            )
            row = txn.fetchone()
            return str(row[0]) if row else ""

        running = await self._database.run("create_job", create)
        if running is not None:
            raise JobRunning(room_id, running)
        return job

    async def get(self, job_id: str) -> Job:
        """The job.

        Raises:
            UnknownJob: there is none of that id.
        """
        rows = await self._database.rows(
            "get_job",
            f"SELECT {_COLUMNS} FROM {JOBS} WHERE kind = ? AND job_id = ?",
            (KIND, job_id),
        )
        if not rows:
            raise UnknownJob(KIND, job_id)
        return _job(rows[0])

    async def page(self, page: Page, room_id: str | None, status: Status | None) -> Listing[Job]:
        """The jobs, of one room or status where given."""
        assert page.order_by in JOB_ORDER, page.order_by
        direction = "DESC" if page.backwards else "ASC"
        conditions, args = ["kind = ?"], [KIND]
        for column, value in (("room_id", room_id), ("status", status and status.value)):
            if value is not None:
                conditions.append(f"{column} = ?")
                args.append(value)
        where = " AND ".join(conditions)
        rows = await self._database.rows(
            "list_jobs",
            f"SELECT {_COLUMNS} FROM {JOBS} WHERE {where}"
            f" ORDER BY {page.order_by} {direction}, job_id {direction} LIMIT ? OFFSET ?",
            (*args, page.limit, page.start),
        )
        ((total,),) = await self._database.rows(
            "count_jobs", f"SELECT COUNT(*) FROM {JOBS} WHERE {where}", args
        )
        return Listing([_job(row) for row in rows], total)

    async def unfinished(self) -> list[Job]:
        """The jobs that are not over in rooms whose events this process writes."""
        rows = await self._database.rows(
            "unfinished_jobs",
            f"SELECT {_COLUMNS} FROM {JOBS}"
            " WHERE kind = ? AND status IN ('scheduled', 'active') ORDER BY created_ts",
            (KIND,),
        )
        return [job for job in map(_job, rows) if self._writes_room(job.room_id)]

    async def save(self, job: Job) -> Job:
        """Writes a job's progress or end; gives it back with any request to cancel it."""

        def save(txn: LoggingTransaction) -> bool:
            txn.execute(
                f"UPDATE {JOBS} SET status = ?, total = ?, done = ?, accepted = ?, rejected = ?,"
                " error = ?, state_changes = ?, started_ts = ?, finished_ts = ?,"
                " start_position = ? WHERE job_id = ?",
                (
                    job.status.value,
                    job.total,
                    job.done,
                    job.accepted,
                    job.rejected,
                    job.error,
                    json.dumps([attr.astuple(c) for c in job.state_changes]),
                    job.started_ts,
                    job.finished_ts,
                    job.start_position,
                    job.job_id,
                ),
            )
            txn.execute(f"SELECT cancel_requested FROM {JOBS} WHERE job_id = ?", (job.job_id,))
            row = txn.fetchone()
            return bool(row and row[0])

        return attr.evolve(job, cancel_requested=await self._database.run("save_job", save))

    async def cancel(self, job_id: str) -> Job:
        """Asks a job to stop at the next opportunity.

        Raises:
            UnknownJob: there is none of that id.
            JobOver: it has ended.
        """

        def cancel(txn: LoggingTransaction) -> None:
            txn.execute(
                f"UPDATE {JOBS} SET cancel_requested = 1"
                " WHERE job_id = ? AND status IN ('scheduled', 'active')",
                (job_id,),
            )

        job = await self.get(job_id)
        if job.status.over:
            raise JobOver(job_id, job.status.value)
        await self._database.run("cancel_job", cancel)
        return await self.get(job_id)

    async def accepted_by(self, job_id: str) -> frozenset[str]:
        """The events that the job has accepted so far, as its journal has them."""
        rows = await self._database.rows(
            "accepted_by",
            f"SELECT event_id FROM {JOURNAL} WHERE job_id = ? AND action = ?",
            (job_id, Action.RECEIVE.value),
        )
        return frozenset(event_id for (event_id,) in rows)


def _row(job: Job) -> tuple[object, ...]:
    return (
        job.job_id,
        job.room_id,
        job.status.value,
        json.dumps(_request_json(job.request)),
        job.total,
        job.done,
        job.accepted,
        job.rejected,
        job.error,
        json.dumps([attr.astuple(c) for c in job.state_changes]),
        job.created_ts,
        job.started_ts,
        job.finished_ts,
        job.start_position,
        int(job.cancel_requested),
    )


def _job(row: tuple[Any, ...]) -> Job:
    job_id, room_id, status, request, *counts, error, changes = row[:10]
    total, done, accepted, rejected = counts
    created, started, finished, position, cancel_requested = row[10:]
    return Job(
        job_id=job_id,
        room_id=room_id,
        status=Status(status),
        request=_request(json.loads(request)),
        total=total,
        done=done,
        accepted=accepted,
        rejected=rejected,
        error=error,
        state_changes=tuple(StateChange(*change) for change in json.loads(changes)),
        created_ts=created,
        started_ts=started,
        finished_ts=finished,
        start_position=position,
        cancel_requested=bool(cancel_requested),
    )


def _request_json(request: RepairRequest) -> dict[str, object]:
    scope = request.scope
    return {
        "event_ids": sorted(scope.event_ids),
        "since_ts": scope.since_ts,
        "until_ts": scope.until_ts,
        "force": sorted(scope.force),
        "deliver": request.deliver.value,
        "fingerprint": request.fingerprint,
    }


def _request(value: dict[str, Any]) -> RepairRequest:
    return RepairRequest(
        scope=Scope(
            event_ids=frozenset(value["event_ids"]),
            since_ts=value["since_ts"],
            until_ts=value["until_ts"],
            force=frozenset(value["force"]),
        ),
        deliver=Deliver(value["deliver"]),
        fingerprint=value["fingerprint"],
    )
