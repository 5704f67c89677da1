"""A Synapse module for benchmarks alone: writes down whenever the reactor was held.

It asks to be called every few milliseconds, and writes how late it was called where that is
late, one JSON object a line: `at` and `held` in seconds (`at` as `time.monotonic` has it, which is
the same for all processes), and `where`: what the reactor's thread was at when it was overdue.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synapse.module_api import ModuleApi
from twisted.internet import reactor

from tests.harness.server import Server

_EVERY = 0.002
_WORTH_A_LINE = 0.01


class Probe:
    """Watches the reactor from within, and from a thread beside it."""

    def __init__(self, config: dict[str, Any], api: ModuleApi) -> None:
        # Open as long as the server runs.
        self._report = Path(config["report"]).open("a", buffering=1)  # noqa: SIM115
        self._due = 0.0
        self._seen: dict[str, None] = {}
        self._ticker: Any = reactor
        self._collecting = 0.0
        gc.callbacks.append(self._collected)
        self._ticker.callWhenRunning(self._begin)

    def _begin(self) -> None:
        self._thread = threading.main_thread().ident or 0
        self._next()
        threading.Thread(target=self._look, daemon=True).start()

    def _next(self) -> None:
        self._due = time.monotonic() + _EVERY
        self._ticker.callLater(_EVERY, self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        held, where = now - self._due, list(self._seen)
        self._seen.clear()
        if held > _WORTH_A_LINE:
            self._report.write(json.dumps({"at": now, "held": held, "where": where}) + "\n")
        self._next()

    def _look(self) -> None:
        while True:
            time.sleep(_WORTH_A_LINE)
            if time.monotonic() - self._due > _WORTH_A_LINE:
                self._seen[_innermost(sys._current_frames().get(self._thread))] = None

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = time.monotonic()
        elif (took := time.monotonic() - self._collecting) > _WORTH_A_LINE / 2:
            self._seen[f"garbage of generation {info['generation']}, {took * 1000:.0f} ms"] = None


def _innermost(frame: Any, depth: int = 6) -> str:
    names: list[str] = []
    while frame is not None and len(names) < depth:
        code = frame.f_code
        names.append(f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return " < ".join(names)


@dataclass
class Holds:
    """How long the reactor was held, each time that it was for long.

    Attributes:
        times: seconds, longest first.
        where: what was going on in the longest of them.
    """

    times: list[float] = field(default_factory=list)
    where: list[str] = field(default_factory=list)

    @property
    def longest(self) -> float:
        """The longest time in milliseconds."""
        return self.times[0] * 1000 if self.times else 0.0


def watch(server: Server) -> Path:
    """Lets a server watch itself from its next start on; returns what it writes to."""
    report = server.folder / "probe.jsonl"
    ours = [m for m in server.config["modules"] if "tests.harness" not in m["module"]]
    server.load_modules(
        [*ours, {"module": "bench.probe.Probe", "config": {"report": str(report)}}],
    )
    return report


@contextmanager
def holds(report: Path) -> Iterator[Holds]:
    """Finds out for how long a server's reactor was held within the block."""
    found = Holds()
    began = time.monotonic()
    yield found
    ended = time.monotonic()
    # What held the reactor to the end is written down a moment later.
    time.sleep(0.1)
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    within = [line for line in lines if began < line["at"] and line["at"] - line["held"] < ended]
    within.sort(key=lambda line: -line["held"])
    found.times = [line["held"] for line in within]
    found.where = within[0]["where"] if within else []
