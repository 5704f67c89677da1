"""Jobs in the background, of whatever kind: the list of them, one of them, an end to one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Generic

from synapse.http.servlet import RestServlet
from synapse.http.site import SynapseRequest

from synapse_rejection_repair.domain.job import Job, Progress, Request, Status
from synapse_rejection_repair.domain.model import JsonDict
from synapse_rejection_repair.errors import InvalidParam
from synapse_rejection_repair.ports_jobs import JobStore
from synapse_rejection_repair.rest import params, serialise
from synapse_rejection_repair.rest.paths import pattern

ORDERS = ("created_ts", "room_id", "status", "started_ts", "finished_ts")


class _Servlet(RestServlet, Generic[Request, Progress]):
    """What the endpoints of one kind of jobs share.

    Args:
        base: the path that the module is mounted under.
        plural: what the jobs are called.
        store: the jobs.
        row: a job as JSON.
    """

    _BELOW = ""

    def __init__(
        self,
        base: str,
        plural: str,
        store: JobStore[Request, Progress],
        row: Callable[[Job[Request, Progress]], JsonDict],
    ) -> None:
        super().__init__()
        self.PATTERNS = pattern(base, f"/{plural}{self._BELOW}")
        self._plural = plural
        self._store = store
        self._row = row


class JobsServlet(_Servlet[Request, Progress]):
    """`GET /{plural}`: all jobs of a kind, the newest first."""

    async def on_GET(self, request: SynapseRequest) -> tuple[int, JsonDict]:
        """Answers with a page of the list."""
        query = params.query(request, (*params.PAGE, "room_id", "status"))
        page = params.page(query, ORDERS, newest_first=True)
        status = query.get("status")
        if status is not None and status not in [s.value for s in Status]:
            raise InvalidParam("status", f"must be one of: {', '.join(s.value for s in Status)}")
        room_id = query.get("room_id")
        jobs = await self._store.page(
            page,
            None if room_id is None else params.room_id(room_id),
            None if status is None else Status(status),
        )
        return HTTPStatus.OK, serialise.listing(self._plural, jobs, page, self._row)


class JobStatusServlet(_Servlet[Request, Progress]):
    """`GET /{plural}/{id}`: one job."""

    _BELOW = "/(?P<job_id>[^/]+)"

    async def on_GET(self, request: SynapseRequest, job_id: str) -> tuple[int, JsonDict]:
        """Answers with the job's progress."""
        params.query(request, ())
        return HTTPStatus.OK, self._row(await self._store.get(params.job_id(job_id)))


class JobCancelServlet(_Servlet[Request, Progress]):
    """`POST /{plural}/{id}/cancel`: stops a job between two batches of events, or before it begins.

    Args:
        base: the path that the module is mounted under.
        plural: what the jobs are called.
        store: the jobs.
        row: a job as JSON.
        cancel: ends a job that has not begun, or asks one to stop.
    """

    _BELOW = "/(?P<job_id>[^/]+)/cancel"

    def __init__(
        self,
        base: str,
        plural: str,
        store: JobStore[Request, Progress],
        row: Callable[[Job[Request, Progress]], JsonDict],
        cancel: Callable[[str], Awaitable[Job[Request, Progress]]],
    ) -> None:
        super().__init__(base, plural, store, row)
        self._cancel = cancel

    async def on_POST(self, request: SynapseRequest, job_id: str) -> tuple[int, JsonDict]:
        """Answers with the job's progress."""
        job_id = params.job_id(job_id)
        params.query(request, ())
        params.body(request, ())
        return HTTPStatus.OK, self._row(await self._cancel(job_id))
