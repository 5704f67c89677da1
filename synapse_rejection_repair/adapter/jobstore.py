"""Jobs and their journal, in the module's own tables: the `JobStore`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import attr
from synapse.storage.database import LoggingTransaction
from synapse.util.stringutils import random_string
from typing_extensions import override

from synapse_rejection_repair.adapter.database import Database
from synapse_rejection_repair.adapter.tables import JOBS, JOURNAL, create_tables
from synapse_rejection_repair.domain.job import Job, Progress, Request, Status
from synapse_rejection_repair.domain.listing import Listing, Page
from synapse_rejection_repair.errors import JobOver, JobRunning, UnknownJob
from synapse_rejection_repair.ports import Clock
from synapse_rejection_repair.ports_jobs import JobStore

_COLUMNS = (
    "job_id, room_id, status, request, progress, error, created_ts, started_ts, finished_ts,"
    " cancel_requested"
)
_UNFINISHED = "status IN ('scheduled', 'active')"


class SynapseJobStore(JobStore[Request, Progress]):
    """Keeps jobs of one kind in Synapse's database.

    Args:
        database: Synapse's.
        kind: what the jobs do, in one word.
        request: the class of what they are asked for.
        progress: the class of how far they are.
        writes_room: whether this process writes the events of a room.
        clock: tells the time.
    """

    def __init__(
        self,
        database: Database,
        kind: str,
        request: type[Request],
        progress: type[Progress],
        writes_room: Callable[[str], bool],
        clock: Clock,
    ) -> None:
        self._database = database
        self._kind = kind
        self._request = request
        self._progress = progress
        self._writes_room = writes_room
        self._clock = clock

    @override
    async def create(self, room_id: str, request: Request) -> Job[Request, Progress]:
        job = Job(
            job_id=random_string(16),
            room_id=room_id,
            status=Status.SCHEDULED,
            request=request,
            progress=self._progress(),
            created_ts=self._clock.now_ms(),
        )

        def create(txn: LoggingTransaction) -> str | None:
            txn.execute(
                f"INSERT INTO {JOBS} (kind, {_COLUMNS})"
                f" VALUES ({', '.join('?' for _ in range(11))})"
                f" ON CONFLICT (room_id) WHERE {_UNFINISHED} DO NOTHING",
                (
                    self._kind,
                    job.job_id,
                    room_id,
                    job.status.value,
                    json.dumps(request.to_json()),
                    json.dumps(job.progress.to_json()),
                    None,
                    job.created_ts,
                    None,
                    None,
                    0,
                ),
            )
            if txn.rowcount:
                return None
            txn.execute(
                f"SELECT job_id FROM {JOBS} WHERE room_id = ? AND {_UNFINISHED}", (room_id,)
            )
            row = txn.fetchone()
            return str(row[0]) if row else ""

        while (running := await self._database.run_beside_others("create_job", create)) is not None:
            # Unless it has just ended.
            if running:
                raise JobRunning(room_id, running)
        return job

    @override
    async def get(self, job_id: str) -> Job[Request, Progress]:
        rows = await self._database.rows(
            "get_job",
            f"SELECT {_COLUMNS} FROM {JOBS} WHERE kind = ? AND job_id = ?",
            (self._kind, job_id),
        )
        if not rows:
            raise UnknownJob(self._kind, job_id)
        return self._job(rows[0])

    @override
    async def page(
        self, page: Page, room_id: str | None, status: Status | None
    ) -> Listing[Job[Request, Progress]]:
        conditions, args = ["kind = ?"], [self._kind]
        for column, value in (("room_id", room_id), ("status", status and status.value)):
            if value is not None:
                conditions.append(f"{column} = ?")
                args.append(value)
        source = f"FROM {JOBS} WHERE {' AND '.join(conditions)}"
        order = (page.order_by, "job_id")
        found = await self._database.page("jobs", _COLUMNS, source, args, page, order)
        return Listing([self._job(row) for row in found.rows], found.total)

    @override
    async def unfinished(self) -> list[Job[Request, Progress]]:
        rows = await self._database.rows(
            "unfinished_jobs",
            f"SELECT {_COLUMNS} FROM {JOBS} WHERE kind = ? AND {_UNFINISHED} ORDER BY created_ts",
            (self._kind,),
        )
        return [job for job in map(self._job, rows) if self._writes_room(job.room_id)]

    @override
    async def begin(self, job_id: str) -> Job[Request, Progress] | None:
        def begin(txn: LoggingTransaction) -> bool:
            txn.execute(
                f"UPDATE {JOBS} SET status = 'active' WHERE job_id = ? AND {_UNFINISHED}",
                (job_id,),
            )
            return bool(txn.rowcount)

        begun = await self._database.run_beside_others("begin_job", begin)
        return await self.get(job_id) if begun else None

    @override
    async def save(self, job: Job[Request, Progress]) -> Job[Request, Progress]:
        return attr.evolve(
            job, cancel_requested=await self._database.run("save_job", self.save_in, job)
        )

    def save_in(self, txn: LoggingTransaction, job: Job[Request, Progress]) -> bool:
        """Writes a job's progress in a transaction; tells whether it is to be cancelled.

        What is written of a job that is over stays as it is.
        """
        txn.execute(
            f"UPDATE {JOBS} SET status = ?, progress = ?, error = ?, started_ts = ?,"
            f" finished_ts = ? WHERE job_id = ? AND {_UNFINISHED} RETURNING cancel_requested",
            (
                job.status.value,
                json.dumps(job.progress.to_json()),
                job.error,
                job.started_ts,
                job.finished_ts,
                job.job_id,
            ),
        )
        rows = txn.fetchall()
        if not rows:
            txn.execute(f"SELECT cancel_requested FROM {JOBS} WHERE job_id = ?", (job.job_id,))
            rows = txn.fetchall()
        return any(requested for (requested,) in rows)

    @override
    async def cancel_requested(self, job_id: str) -> bool:
        rows = await self._database.rows(
            "cancel_requested", f"SELECT cancel_requested FROM {JOBS} WHERE job_id = ?", (job_id,)
        )
        return bool(rows and rows[0][0])

    @override
    async def cancel(self, job_id: str) -> Job[Request, Progress]:
        now = self._clock.now_ms()

        def cancel(txn: LoggingTransaction) -> bool:
            # One that has not begun is over: whoever is to run it may not be there.
            txn.execute(
                f"UPDATE {JOBS} SET status = 'cancelled', cancel_requested = 1, finished_ts = ?"
                " WHERE job_id = ? AND status = 'scheduled'",
                (now, job_id),
            )
            if txn.rowcount:
                return True
            txn.execute(
                f"UPDATE {JOBS} SET cancel_requested = 1 WHERE job_id = ? AND {_UNFINISHED}",
                (job_id,),
            )
            return bool(txn.rowcount)

        await self.get(job_id)
        heard = await self._database.run_beside_others("cancel_job", cancel)
        job = await self.get(job_id)
        if not heard:
            raise JobOver(job_id, job.status.value)
        return job

    @override
    async def journalled(self, job_id: str, action: str) -> frozenset[str]:
        rows = await self._database.rows(
            "journalled",
            f"SELECT event_id FROM {JOURNAL} WHERE job_id = ? AND action = ?",
            (job_id, action),
        )
        return frozenset(event_id for (event_id,) in rows)

    def _job(self, row: tuple[Any, ...]) -> Job[Request, Progress]:
        job_id, room_id, status, request, progress, error, created, started, finished, cancel = row
        return Job(
            job_id=job_id,
            room_id=room_id,
            status=Status(status),
            request=self._request.from_json(json.loads(request)),
            progress=self._progress.from_json(json.loads(progress)),
            error=error,
            created_ts=created,
            started_ts=started,
            finished_ts=finished,
            cancel_requested=bool(cancel),
        )


async def prepare_tables(database: Database) -> None:
    """Creates the module's tables where they are missing."""
    await database.run("create_tables", create_tables)
