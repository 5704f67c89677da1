"""The README says what is so: its commands, answers, configuration, SQL and links."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import pytest
import yaml

from synapse_rejection_repair import RejectionRepair
from synapse_rejection_repair.adapter.tables import create_tables
from tests.harness.process import REPOSITORY
from tests.openapi import Contract

README = (REPOSITORY / "README.md").read_text()
CONTRACT = Contract(tags={"Understand", "Repair"})


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
    for value in (example.body or {}).get("plan"), *re.findall(r"/repairs/(\w+)$", example.path):
        if value is not None:
            assert README.count(value) > 1


def test_every_key_of_the_body_is_explained() -> None:
    request = CONTRACT.document["components"]["schemas"]["RepairRequest"]["properties"]
    rows = re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} >= request.keys()


def test_configuration() -> None:
    (section,) = [block for block in map(yaml.safe_load, _blocks("yaml")) if "modules" in block]
    (module,) = section["modules"]
    assert module["module"] == f"{RejectionRepair.__module__.split('.')[0]}.RejectionRepair"
    assert RejectionRepair.parse_config(module["config"]) == RejectionRepair.parse_config({})


def test_other_snippets_are_well_formed() -> None:
    for block in _blocks("yaml"):
        assert isinstance(yaml.safe_load(block), dict)
    for block in _blocks("nginx") + _blocks("caddyfile"):
        assert block.count("{") == block.count("}") > 0
        assert "/_synapse/rejection_repair" in block


def test_sql() -> None:
    connection = sqlite3.connect(":memory:")
    create_tables(connection.cursor())  # type: ignore[arg-type]
    statements = [s for block in _blocks("sql") for s in block.split(";") if s.strip()]
    assert len(statements) >= 5
    for statement in statements:
        if "::jsonb" not in statement:
            connection.execute(statement)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []


def test_links() -> None:
    for text in (README, (REPOSITORY / "docs" / "architecture.md").read_text()):
        folder = REPOSITORY if text is README else REPOSITORY / "docs"
        anchors = {
            "#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        }
        for target in re.findall(r"\]\(([^)]+)\)", text):
            if target.startswith("#"):
                assert target in anchors, target
            elif not target.startswith("https://"):
                assert (folder / target).exists(), target
