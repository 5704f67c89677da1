"""A real Synapse on loopback."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from tests.harness.client import Client
from tests.harness.config import Module, write_config
from tests.harness.database import Database, SqliteDatabase
from tests.harness.installs import NEWEST, Install
from tests.harness.log import errors
from tests.harness.ports import free_port
from tests.harness.process import Process
from tests.harness.waiting import wait_for

START_TIMEOUT = 60.0


class Server:
    """One homeserver: its process, its folder, its database, its log."""

    def __init__(
        self,
        folder: Path,
        *,
        install: Install = NEWEST,
        database: Database | None = None,
        modules: Sequence[Module] | None = None,
        config: Mapping[str, Any] | None = None,
        log_level: str = "INFO",
        ports: tuple[int, int] | None = None,
    ) -> None:
        """Prepares the server; `start` runs it.

        Args:
            folder: Where it keeps its files.
            install: The Synapse to run.
            database: Its database; None for a SQLite file in the folder.
            modules: The modules that it loads besides the harness's own; None for those of
                example_homeserver.yaml, that is, the module that this project is about.
            config: Settings over those of the example.
            log_level: The level of its log.
            ports: Those for clients and for other servers; None for any that are free.
        """
        self.folder = folder
        self.install = install
        self.database = database or SqliteDatabase(folder / "homeserver.db")
        self.client_port, self.federation_port = ports or (free_port(), free_port())
        self._control = folder / "sabotage.json"
        self._process: Process | None = None
        self._log_level = log_level
        self._overrides = config
        self.load_modules(modules)

    def load_modules(self, modules: Sequence[Module] | None) -> None:
        """Writes its configuration, with other modules from its next start on.

        Args:
            modules: As for the constructor.
        """
        self.config = write_config(
            self.folder,
            client_port=self.client_port,
            federation_port=self.federation_port,
            database=self.database,
            modules=modules,
            extra_modules=[
                {
                    "module": "tests.harness.sabotage.Sabotage",
                    "config": {"control": str(self._control)},
                }
            ],
            log_level=self._log_level,
            overrides=self._overrides,
        )

    @property
    def name(self) -> str:
        """The server's name, which is also where other servers reach it."""
        return f"127.0.0.1:{self.federation_port}"

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"http://127.0.0.1:{self.client_port}"

    @property
    def log_path(self) -> Path:
        """The file that its log goes to, over all restarts."""
        return self.folder / "homeserver.log"

    # The process.

    def launch(self) -> None:
        """Starts the process and does not wait for it: two servers start faster side by side."""
        assert self._process is None, "it runs already"
        self._process = Process(
            ["module", "synapse.app.homeserver", "-c", str(self.folder / "homeserver.yaml")],
            python=self.install.python,
            cwd=self.folder,
            output=self.log_path,
        )

    def wait_healthy(self) -> None:
        """Waits until it answers.

        Raises:
            RuntimeError: if the process ended instead.
        """
        wait_for(self._healthy, START_TIMEOUT, what=f"{self.name} to answer")

    def start(self) -> Server:
        """Starts it, and waits until it answers."""
        self.launch()
        self.wait_healthy()
        return self

    def stop(self) -> None:
        """Stops it in order, with SIGTERM. Nothing happens if it does not run."""
        if self._process is not None:
            process, self._process = self._process, None
            process.terminate()

    def kill(self) -> None:
        """Ends it with SIGKILL, as a crash would. Nothing happens if it does not run."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()

    def restart(self) -> None:
        """Stops it in order and starts it again."""
        self.stop()
        self.start()

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def memory(self) -> dict[str, int]:
        """Returns its memory in bytes, as Linux counts it: `VmRSS` now, `VmHWM` at its highest."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}

    def _healthy(self) -> bool:
        if not self.running:
            raise RuntimeError(f"{self.name} ended:\n" + self.log_text()[-5000:])
        try:
            return requests.get(f"{self.url}/health", timeout=5).ok
        except requests.ConnectionError:
            return False

    # The log.

    def log_text(self) -> str:
        """Returns its log so far, over all restarts."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def errors_in_log(self, ignore: Sequence[str] = ()) -> list[str]:
        """Returns what its log says of errors; see `tests.harness.log.errors`."""
        return errors(self.log_text(), ignore)

    # Its users and events.

    def register(self, name: str, *, admin: bool = False) -> Client:
        """Registers a user.

        Args:
            name: The local part of the user's id.
            admin: Whether the user is an administrator of the server.

        Returns:
            The user, logged in.
        """
        path = f"{self.url}/_synapse/admin/v1/register"
        nonce = requests.get(path, timeout=30).json()["nonce"]
        password = "password of " + name
        role = "admin" if admin else "notadmin"
        mac = hmac.new(
            self.config["registration_shared_secret"].encode(),
            "\0".join([nonce, name, password, role]).encode(),
            hashlib.sha1,
        )
        body = {
            "nonce": nonce,
            "username": name,
            "password": password,
            "admin": admin,
            "mac": mac.hexdigest(),
        }
        answer = requests.post(path, json=body, timeout=30)
        answer.raise_for_status()
        user = answer.json()
        return Client(self.url, user["user_id"], user["access_token"])

    def wait_for_event(self, event_id: str, timeout: float = 90.0) -> None:
        """Waits until it has stored an event, accepted or rejected, but not as an outlier."""
        sql = "SELECT 1 FROM events WHERE event_id = ? AND NOT outlier"
        wait_for(
            lambda: self.database.query(sql, event_id),
            timeout,
            what=f"{self.name} storing {event_id}",
        )

    def rejected(self, room_id: str) -> set[str]:
        """Returns the events of a room that it holds as rejected."""
        sql = "SELECT event_id FROM rejections JOIN events USING (event_id) WHERE room_id = ?"
        return {event_id for (event_id,) in self.database.query(sql, room_id)}

    # Sabotage.

    def sabotage(self, times: int = 1, **match: str) -> None:
        """Makes it reject events that it should accept, until `sabotage_off`.

        Args:
            times: How many of those that match.
            match: What they look like; see `tests.harness.sabotage`.
        """
        self._write_control([{**match, "times": times}])

    def sabotage_off(self) -> None:
        """Lets it judge events as Synapse does."""
        self._write_control([])

    def _write_control(self, rules: list[dict[str, Any]]) -> None:
        # The server must never see half a file.
        draft = self._control.with_suffix(".new")
        draft.write_text(json.dumps({"reject": rules}))
        draft.replace(self._control)
