"""Fixtures: real servers, started once for each module of tests that asks for them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.braked import Braked, braked_pair
from tests.harness.database import Database
from tests.harness.federation import Pair, running
from tests.harness.flavours import Flavour
from tests.harness.installs import INSTALLS
from tests.harness.postgres import Postgres
from tests.harness.redis import Redis
from tests.harness.server import Server

MakeServer = Callable[..., Server]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, for as long as the tests run."""
    cluster = Postgres()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    """A Redis server, for as long as the tests run."""
    server = Redis()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Two running servers; `parametrize("pair", flavours.ALL, indirect=True)` chooses which."""
    flavour: Flavour = getattr(request, "param", None) or Flavour()
    folder = tmp_path_factory.mktemp("pair")
    database: Database | None = None
    if flavour.database == "postgres":
        database = request.getfixturevalue("postgres").create_database()
    a = Server(folder / "a", install=INSTALLS[flavour.a], modules=[])
    b = Server(
        folder / "b",
        install=INSTALLS[flavour.b],
        database=database,
        modules=None if flavour.repair else [],
        # What a new database is in want of is done at once, not over minutes: tests that
        # compare a database with what it was would see it.
        config={"background_updates": {"sleep_enabled": False}},
    )
    with running(a, b):
        yield Pair(a, b)


@pytest.fixture(scope="module")
def braked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Braked]:
    flavour: Flavour = getattr(request, "param", None) or Flavour()
    database: Database | None = None
    if flavour.database == "postgres":
        database = request.getfixturevalue("postgres").create_database()
    folder = tmp_path_factory.mktemp("braked")
    with braked_pair(folder, database, INSTALLS[flavour.b]) as made:
        yield made


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[MakeServer]:
    """Makes servers that the test's end stops: `make_server("name", **arguments_of_Server)`."""
    servers: list[Server] = []

    def make(name: str = "server", **arguments: Any) -> Server:
        servers.append(Server(tmp_path / name, **arguments))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows, under a failed test, where its servers' logs are and what went wrong in them."""
    report = yield
    pair = getattr(item, "funcargs", {}).get("pair")
    if report.failed and isinstance(pair, Pair):
        for name, server in (("A", pair.a), ("B", pair.b)):
            text = "\n".join([str(server.log_path), *server.errors_in_log()])
            report.sections.append((f"Log of {name}", text[-10000:]))
    return report
