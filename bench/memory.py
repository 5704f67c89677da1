"""How much memory a server takes at its highest, over what it had before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness.server import Server


@dataclass
class Peak:
    """The highest memory of a process and how far that was from before, in bytes."""

    growth: int = 0
    highest: int = 0


@contextmanager
def peak_of(server: Server) -> Iterator[Peak]:
    """Measures how far a server's memory rises above what it has at the start of the block."""
    # Writing 5 resets the peak that Linux keeps (proc(5), clear_refs).
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")
    before = server.memory()["VmRSS"]
    peak = Peak()
    yield peak
    peak.highest = server.memory()["VmHWM"]
    peak.growth = peak.highest - before
