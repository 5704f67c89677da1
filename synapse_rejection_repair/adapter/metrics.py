"""What Synapse's Prometheus metrics tell of the jobs that this process has run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from synapse.metrics import SERVER_NAME_LABEL
from typing_extensions import override

from synapse_rejection_repair.domain.imports import ImportJob, ImportProgress, ImportRequest
from synapse_rejection_repair.domain.job import Job, Progress, Request
from synapse_rejection_repair.domain.repair import RepairJob, RepairProgress, RepairRequest
from synapse_rejection_repair.ports_jobs import Meter

_jobs_active = Gauge(
    "synapse_rejection_repair_jobs_active",
    "Jobs that run now, by kind",
    labelnames=["kind", SERVER_NAME_LABEL],
)
_jobs = Counter(
    "synapse_rejection_repair_jobs",
    "Jobs that have ended, by kind and by how they ended",
    labelnames=["kind", "status", SERVER_NAME_LABEL],
)
_events = Counter(
    "synapse_rejection_repair_events",
    "Events that jobs which have ended dealt with, by kind of job and by what came of them",
    labelnames=["kind", "outcome", SERVER_NAME_LABEL],
)
_duration = Histogram(
    "synapse_rejection_repair_job_duration_seconds",
    "How long jobs took from their beginning to their end, by kind",
    labelnames=["kind", SERVER_NAME_LABEL],
    buckets=(0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 7200, 21600, float("inf")),
)


class _Meter(Meter[Request, Progress]):
    """Counts jobs, in Synapse's own registry.

    Args:
        kind: what the jobs are.
        server_name: the homeserver's name, which Synapse labels all metrics with.
    """

    def __init__(self, kind: str, server_name: str) -> None:
        self._server = {SERVER_NAME_LABEL: server_name}
        self._active = _jobs_active.labels(kind=kind, **self._server)

    @override
    def begun(self) -> None:
        self._active.inc()

    @override
    def stopped(self) -> None:
        self._active.dec()

    def _ended(self, kind: str, job: Job[Any, Any], outcomes: Mapping[str, int]) -> None:
        _jobs.labels(kind=kind, status=job.status.value, **self._server).inc()
        if job.started_ts is not None and job.finished_ts is not None:
            seconds = (job.finished_ts - job.started_ts) / 1000
            _duration.labels(kind=kind, **self._server).observe(max(0.0, seconds))
        for outcome, count in outcomes.items():
            _events.labels(kind=kind, outcome=outcome, **self._server).inc(count)


class RepairMeter(_Meter[RepairRequest, RepairProgress]):
    """Counts repairs, and what undoes them.

    Args:
        server_name: the homeserver's name.
    """

    def __init__(self, server_name: str) -> None:
        super().__init__("repair", server_name)

    @override
    def ended(self, job: RepairJob) -> None:
        progress = job.progress
        if job.request.undoes is not None:
            self._ended("undo", job, {"put_back": progress.done})
            return
        outcomes = {"accepted": progress.accepted, "left_rejected": progress.rejected}
        self._ended("repair", job, outcomes)


class ImportMeter(_Meter[ImportRequest, ImportProgress]):
    """Counts imports.

    Args:
        server_name: the homeserver's name.
    """

    def __init__(self, server_name: str) -> None:
        super().__init__("import", server_name)

    @override
    def ended(self, job: ImportJob) -> None:
        skipped = {f"skipped_{reason}": n for reason, n in job.progress.skipped.items()}
        self._ended("import", job, {"imported": job.progress.imported, **skipped})
