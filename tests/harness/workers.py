"""A real Synapse of several processes on loopback, as large deployments have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests
import yaml
from synapse.config._base import RoutableShardedWorkerHandlingConfig

from tests.harness.client import Client
from tests.harness.config import Module
from tests.harness.database import Database
from tests.harness.installs import NEWEST, Install
from tests.harness.log import errors
from tests.harness.ports import free_port
from tests.harness.process import Process
from tests.harness.redis import Redis
from tests.harness.server import START_TIMEOUT, Server
from tests.harness.waiting import wait_for

MAIN = "main"
PERSISTERS = ("persister1", "persister2")
CLIENTS = "client1"
BACKGROUND = "background1"
WORKERS = (*PERSISTERS, CLIENTS, BACKGROUND)
PROCESSES = (MAIN, *WORKERS)

_RESOURCES: dict[str, list[list[str]]] = {
    "persister1": [["replication"]],
    "persister2": [["replication"]],
    CLIENTS: [["client"], ["federation"]],
    BACKGROUND: [["health"]],
}
"""What the listeners of each worker are for."""


class WorkerServer(Server):
    """One homeserver of five processes, all of which load the modules.

    Clients reach the main process and the client worker; other servers reach the client worker
    alone, so this is where events come in. The persisters store them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        redis: Redis,
        database: Database,
        install: Install = NEWEST,
        modules: Sequence[Module] | None = None,
        config: Mapping[str, Any] | None = None,
        log_level: str = "INFO",
    ) -> None:
        """Prepares the server; `start` runs it.

        Args:
            folder: Where it keeps its files.
            redis: What its processes tell each other the news through.
            database: Its database, of PostgreSQL.
            install: As for `Server`.
            modules: Likewise.
            config: Likewise.
            log_level: Likewise.
        """
        replication = {name: free_port() for name in (MAIN, *PERSISTERS)}
        super().__init__(
            folder,
            install=install,
            database=database,
            modules=modules,
            log_level=log_level,
            config={
                "redis": {"enabled": True, "host": "127.0.0.1", "port": redis.port},
                "worker_replication_secret": "only-for-the-tests",
                "instance_map": {
                    name: {"host": "127.0.0.1", "port": port} for name, port in replication.items()
                },
                "stream_writers": {"events": list(PERSISTERS)},
                "run_background_tasks_on": BACKGROUND,
                **(config or {}),
            },
        )
        self._workers: dict[str, Process] = {}
        self.ports = {
            MAIN: self.client_port,
            CLIENTS: free_port(),
            BACKGROUND: free_port(),
            **{name: replication[name] for name in PERSISTERS},
        }
        listeners = self.config["listeners"]
        federation = next(ln for ln in listeners if ln["tls"])
        listeners.remove(federation)
        # A worker reads the certificate only where the main process has a listener with TLS too.
        listeners.append({**federation, "port": free_port()})
        listeners.append(_listener(replication[MAIN], ["replication"]))
        (folder / "homeserver.yaml").write_text(yaml.safe_dump(self.config))
        for name in WORKERS:
            worker = {
                "worker_app": "synapse.app.generic_worker",
                "worker_name": name,
                "worker_log_config": self.config["log_config"],
                "worker_listeners": [
                    federation if names == ["federation"] else _listener(self.ports[name], names)
                    for names in _RESOURCES[name]
                ],
            }
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(worker))

    def url_of(self, name: str) -> str:
        """Where a process is reached, even if it is not meant for clients."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def at(self, name: str, user: Client) -> Client:
        """A user whose client talks to one of the processes."""
        return Client(self.url_of(name), user.user_id, user.access_token)

    def writer_of(self, room_id: str) -> str:
        """The process that writes a room's events."""
        instance: str = RoutableShardedWorkerHandlingConfig(list(PERSISTERS)).get_instance(room_id)
        return instance

    # The processes.

    def launch_worker(self, name: str) -> None:
        """Starts a worker and does not wait for it."""
        assert name not in self._workers, "it runs already"
        self._workers[name] = Process(
            [
                *("module", "synapse.app.generic_worker"),
                *("-c", str(self.folder / "homeserver.yaml")),
                *("-c", str(self.folder / f"{name}.yaml")),
            ],
            python=self.install.python,
            cwd=self.folder,
            output=self._log_of(name),
        )

    def launch_all(self) -> None:
        """Starts all processes at once, over a database that Synapse has made before."""
        self.launch()
        for name in WORKERS:
            self.launch_worker(name)

    def wait_for_worker(self, name: str) -> None:
        """Waits until a worker answers."""
        wait_for(lambda: self._answers(name), START_TIMEOUT, what=f"{name} to answer")

    def wait_for_main(self) -> None:
        """Waits until the main process answers, which makes the database that all start on."""
        super().wait_healthy()

    def wait_healthy(self) -> None:
        """Waits until the main process answers, starts all workers at once, and waits for them."""
        self.wait_for_main()
        for name in WORKERS:
            if name not in self._workers:
                self.launch_worker(name)
        for name in WORKERS:
            self.wait_for_worker(name)

    def stop(self) -> None:
        """Stops all processes in order."""
        try:
            for name in [*self._workers]:
                self._workers.pop(name).terminate()
        finally:
            super().stop()

    def kill_worker(self, name: str) -> None:
        """Ends a worker as a crash would, if it still runs."""
        self._workers.pop(name).kill()

    def worker_runs(self, name: str) -> bool:
        """Whether a worker runs."""
        return name in self._workers and self._workers[name].alive

    def _answers(self, name: str) -> bool:
        if not self.worker_runs(name):
            raise RuntimeError(f"{name} ended:\n" + self.log_of(name)[-5000:])
        try:
            return requests.get(f"{self.url_of(name)}/health", timeout=5).ok
        except requests.ConnectionError:
            return False

    # The logs.

    def _log_of(self, name: str) -> Path:
        return self.log_path if name == MAIN else self.folder / f"{name}.log"

    def log_of(self, name: str) -> str:
        """Returns one process's log so far, over all restarts."""
        path = self._log_of(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def errors_in_log(self, ignore: Sequence[str] = ()) -> list[str]:
        """Returns what the logs of all processes say of errors."""
        return [
            f"{name}: {entry}" for name in PROCESSES for entry in errors(self.log_of(name), ignore)
        ]


def _listener(port: int, names: list[str]) -> dict[str, Any]:
    return {
        "port": port,
        "type": "http",
        "bind_addresses": ["127.0.0.1"],
        "resources": [{"names": names}],
    }
