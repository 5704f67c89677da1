"""Servers that can be slowed down, killed where a test wants it, and set back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.harness.brake import brake
from tests.harness.config import EXAMPLE
from tests.harness.database import Database, SqliteDatabase
from tests.harness.federation import Pair, running
from tests.harness.installs import NEWEST, Install
from tests.harness.server import Server
from tests.harness.waiting import wait_for

PERSIST = "persist_events"


@dataclass(frozen=True)
class Braked:
    """A pair whose B can be slowed down, and killed in a transaction of our choice."""

    pair: Pair
    control: Path

    def hold(self, nth: int, transaction: str = PERSIST) -> None:
        """Makes B wait before the nth transaction of that name, until it is released."""
        brake(self.control, {"transaction": transaction, "hold": nth})

    def kill_in(self, transaction: str, nth: int, moment: str) -> None:
        """Makes B die in the nth transaction of that name: amid, before or after its commit."""
        brake(self.control, {"transaction": transaction, "nth": nth, "kill": moment})

    def release(self) -> None:
        brake(self.control)

    def wait_dead(self) -> None:
        b = self.pair.b
        wait_for(lambda: not b.running, timeout=30, what="B to be killed")
        b.kill()


@contextmanager
def braked_pair(
    folder: Path, database: Database | None = None, install: Install = NEWEST
) -> Iterator[Braked]:
    folder.mkdir(exist_ok=True)
    control = folder / "brake.json"
    modules = [
        # The first: the other one's tables are made as soon as it is loaded.
        {"module": "tests.harness.brake.Brake", "config": {"control": str(control)}},
        *yaml.safe_load(EXAMPLE.read_text())["modules"],
    ]
    a = Server(folder / "a", modules=[])
    b = Server(
        folder / "b",
        install=install,
        modules=modules,
        database=database,
        # As for any pair: what a new database is in want of is not to go on in a test.
        config={"background_updates": {"sleep_enabled": False}},
    )
    with running(a, b):
        yield Braked(Pair(a, b), control)


def keep(server: Server, copy: Path) -> None:
    """Copies a stopped server's SQLite file."""
    shutil.copy(_file(server), copy)


def rewind(server: Server, copy: Path) -> None:
    """Gives a stopped server a database that was kept; its log begins anew."""
    file = _file(server)
    for leftover in file.parent.glob(file.name + "-*"):
        leftover.unlink()
    shutil.copy(copy, file)
    server.log_path.unlink(missing_ok=True)


def _file(server: Server) -> Path:
    assert isinstance(server.database, SqliteDatabase)
    return server.database.path
