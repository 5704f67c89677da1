"""The README says what is so: its commands, answers, configuration, SQL and links."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import attr
import pytest
import yaml

from synapse_rejection_repair import RejectionRepair
from synapse_rejection_repair.adapter.tables import create_tables
from tests.harness.client import MatrixError, quoted
from tests.harness.process import REPOSITORY
from tests.harness.server import Server
from tests.oldworld import OldWorld, finished, old_world, tamper
from tests.openapi import Contract

README = (REPOSITORY / "README.md").read_text()
CONTRACT = Contract()


@dataclass
class Example:
    """A command on the screen, and what it answered."""

    command: str
    method: str
    path: str
    query: dict[str, str]
    body: Any
    answer: Any


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _examples() -> Iterator[Example]:
    for block in _blocks("console"):
        command, answer = block.split("\n", 1)
        assert command.startswith("$ curl -sS "), command
        words = shlex.split(command.removeprefix("$ "))
        url, _, query = words[-1].removeprefix("$API").partition("?")
        assert words[-1].startswith("$API/") and "Authorization: Bearer $TOKEN" in words, command
        data = words[words.index("-d") + 1] if "-d" in words else None
        yield Example(
            command,
            "get" if data is None else "post",
            "/v1" + url.replace("$ROOM", "%21room%3Aexample.org"),
            dict(parse_qsl(query, keep_blank_values=True)),
            None if data is None else json.loads(data),
            json.loads(answer),
        )


EXAMPLES = list(_examples())


def test_every_endpoint_has_an_example() -> None:
    shown = {
        (CONTRACT.match(example.path), example.method)
        for example in EXAMPLES
        if "errcode" not in example.answer
    }
    assert shown == {(path, method) for path, method, _ in CONTRACT.operations()}


@pytest.mark.parametrize("example", EXAMPLES, ids=[e.command[-60:] for e in EXAMPLES])
def test_answer(example: Example) -> None:
    template = CONTRACT.match(example.path)
    assert template is not None
    errors = CONTRACT.request_errors(example.method, example.path, example.query, example.body)
    refused = "errcode" in example.answer
    assert bool(errors) == refused, errors
    answer = CONTRACT.document["paths"][template][example.method]["responses"]
    response = answer["400" if refused else "200"]
    if "$ref" in response:
        name = response["$ref"].removeprefix("#/components/responses/")
        response = CONTRACT.document["components"]["responses"][name]
    CONTRACT.validate(example.answer, response["content"]["application/json"]["schema"])
    # What the commands are given is out of the answers before them.
    for value in (
        (example.body or {}).get("plan"),
        *re.findall(r"/(?:repairs|imports)/(\w+)", example.path),
    ):
        if value is not None:
            assert README.count(value) > 1


def test_every_key_of_the_body_is_explained() -> None:
    rows = re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
    explained = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    for name in ("RepairRequest", "ImportsRequest"):
        assert explained >= CONTRACT.document["components"]["schemas"][name]["properties"].keys()


def test_every_count_of_the_dry_run_is_explained() -> None:
    counts = CONTRACT.document["components"]["schemas"]["ImportCounts"]["properties"]
    rows = re.findall(r"^\| `.*", README, re.MULTILINE)
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} >= counts.keys()


def _configurations() -> list[dict[str, Any]]:
    """The `modules` of the snippets that are for homeserver.yaml."""
    sections = [block for block in map(yaml.safe_load, _blocks("yaml")) if "modules" in block]
    modules = [module for section in sections for module in section["modules"]]
    for module in modules:
        assert module["module"] == f"{RejectionRepair.__module__.split('.')[0]}.RejectionRepair"
    return modules


def test_configuration() -> None:
    plain, importing = _configurations()
    assert RejectionRepair.parse_config(plain["config"]) == RejectionRepair.parse_config({})
    config = RejectionRepair.parse_config(importing["config"])
    assert {s.engine for s in config.sources.values()} == {"sqlite3", "psycopg2"}
    section = README.split("\n## Configure\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert rows == [field.name for field in attr.fields(type(config))]


def _keys(value: Any) -> Any:
    """What an answer has, without what it says: of lists the first entry."""
    if isinstance(value, dict):
        return {
            k: k if k == "skipped" and not isinstance(v, list) else _keys(v)
            for k, v in value.items()
        }
    return [_keys(value[0])] if isinstance(value, list) and value else None


def test_import(tmp_path: Path) -> None:
    """The import's commands, one after the other, on servers that are configured as it says."""
    _, importing = _configurations()

    def modules(a: Server) -> list[Any]:
        sources = importing["config"]["sources"]
        args = sources["old"]["database"]["args"]
        assert args == {"database": "/path/to/old/homeserver.db"}
        args.update(a.database.synapse_config()["args"])
        assert sources["old"]["media_store_path"] == "/path/to/old/media_store"
        sources["old"]["media_store_path"] = str(a.folder / "media_store")
        return [importing]

    real: dict[str, str] = {}

    def show(world: OldWorld) -> None:
        for uri in (world.alice.upload(b"A picture"), f"mxc://{world.a.name}/GoneForLong"):
            image = {"msgtype": "m.image", "body": "Look", "url": uri}
            world.alice.send_event(world.room_id, "m.room.message", image)

    with old_world(tmp_path, "11", modules=modules, spoil=show) as world:
        tamper(world, world.messages[14], lambda text: text.replace("@alice", "@mallo"))
        for example in EXAMPLES:
            template = CONTRACT.match(example.path)
            assert template is not None
            if "Import" not in CONTRACT.document["paths"][template][example.method]["tags"]:
                continue
            path = example.path.removeprefix("/v1")
            path = path.replace("%21room%3Aexample.org", quoted(world.room_id)[1:])
            for documented, job_id in real.items():
                path = path.replace(documented, job_id)
            answer = world.bob.repair_api(
                example.method.upper(), path, example.body, params=example.query
            )
            assert _keys(answer) == _keys(example.answer), example.command
            if "import_id" in answer:
                real[example.answer["import_id"]] = answer["import_id"]
            if path.endswith("/cancel"):
                assert finished(world.bob, answer["import_id"])["status"] == "cancelled"
            if path == "/imports" and example.body is not None:
                # The documented answer has another room besides.
                job = finished(world.bob, answer["rooms"][0]["import_id"])
                assert (job["status"], job["skipped"]) == ("complete", {"bad_event_id": 1})
                assert job["media"]["copied"] == 1
                real.update({r["import_id"]: job["import_id"] for r in example.answer["rooms"]})
            if path == "/sources":
                assert answer == example.answer
        assert answer["summary"]["to_import"] == 0 == example.answer["summary"]["to_import"]
        with pytest.raises(MatrixError, match="cannot be read"):
            world.bob.repair_api("GET", "/sources/another/rooms")


def test_other_snippets_are_well_formed() -> None:
    for block in _blocks("yaml"):
        assert isinstance(yaml.safe_load(block), dict)
    for block in _blocks("nginx") + _blocks("caddyfile"):
        assert block.count("{") == block.count("}") > 0
        assert "/_synapse/rejection_repair" in block


def test_sql() -> None:
    connection = sqlite3.connect(":memory:")
    cursor = connection.cursor()
    transaction: Any = SimpleNamespace(
        database_engine=None, execute=cursor.execute, fetchall=cursor.fetchall
    )
    create_tables(transaction)
    statements = [s for block in _blocks("sql") for s in block.split(";") if s.strip()]
    assert len(statements) >= 5
    for statement in statements:
        if "::jsonb" not in statement:
            connection.execute(statement)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


def _anchors(path: Path) -> set[str]:
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    }


def test_links() -> None:
    for path in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
            if target.startswith("https://"):
                continue
            file, _, anchor = target.partition("#")
            there = path.parent / file if file else path
            assert there.exists(), target
            assert not anchor or anchor in _anchors(there), target
