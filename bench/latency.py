"""How long other rooms wait, measured from outside, all the while that something runs."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.harness.client import Client

_PAUSE = 0.02
"""Between two measurements, in seconds: a user is no load test."""


@dataclass
class Latency:
    """How long requests took, in milliseconds."""

    sync: list[float] = field(default_factory=list)
    send: list[float] = field(default_factory=list)

    def median(self, what: str) -> float:
        """The median of one kind of request, in milliseconds."""
        return statistics.median(self._of(what))

    def p95(self, what: str) -> float:
        """The 95th percentile of one kind of request, in milliseconds."""
        return statistics.quantiles(self._of(what), n=20)[-1]

    def _of(self, what: str) -> list[float]:
        return self.sync if what == "sync" else self.send


@contextmanager
def measured(user: Client, room_id: str) -> Iterator[Latency]:
    """Sends and syncs in a room for as long as the block runs, and measures both."""
    latency = Latency()
    over = threading.Event()

    def run() -> None:
        since = user.sync()["next_batch"]
        number = 0
        while not over.is_set():
            number += 1
            began = time.monotonic()
            user.send_message(room_id, f"Ping {number}")
            sent = time.monotonic()
            since = user.sync(since)["next_batch"]
            latency.send.append((sent - began) * 1000)
            latency.sync.append((time.monotonic() - sent) * 1000)
            over.wait(_PAUSE)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield latency
    finally:
        over.set()
        thread.join()
