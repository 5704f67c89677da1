"""The documents say what is so: their commands, answers, configuration, SQL and links."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import attr
import pytest
import synapse.storage.schema
import yaml
from prometheus_client.metrics import MetricWrapperBase

from synapse_rejection_repair import RejectionRepair
from synapse_rejection_repair.adapter import alertchannel, metrics, takeaway
from synapse_rejection_repair.adapter.replaced_state import REPLACED
from synapse_rejection_repair.adapter.skipped import SKIPPED, SKIPPED_MEDIUM
from synapse_rejection_repair.adapter.tables import create_tables
from synapse_rejection_repair.config import AlertConfig, AutoRepairConfig, SourceConfig
from synapse_rejection_repair.domain.steps import Action
from synapse_rejection_repair.domain.undo import UNDO
from synapse_rejection_repair.errors import (
    NobodyWrites,
    NotStored,
    RepairError,
    StateNotReached,
    StepFailed,
)
from synapse_rejection_repair.errors_imports import MediaNotCopied, NoMediaRepository
from synapse_rejection_repair.rest.errors import _HTTP
from tests.harness.client import MatrixError, quoted
from tests.harness.process import REPOSITORY
from tests.harness.server import Server
from tests.oldworld import OldWorld, finished, old_world, tamper
from tests.openapi import Contract

PATHS = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
DOCUMENTS = {path.name: path.read_text() for path in PATHS}
README = DOCUMENTS["README.md"]
CONTRACT = Contract()
PACKAGE = REPOSITORY / "synapse_rejection_repair"

LONGEST = 120
"""How many characters a line of prose has at most."""

BELOW_CONFIG = '# below "config:" of the module\n'
"""What a snippet begins with that is a part of the module's configuration."""


@dataclass
class Example:
    """A command on the screen, and what it answered; None where that is not shown."""

    document: str
    command: str
    method: str
    path: str
    query: dict[str, str]
    body: Any
    answer: Any


def _blocks(language: str, *names: str) -> list[str]:
    """The snippets of a language, in some documents or in all of them."""
    fence = re.compile(rf"^ *```{language}\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    return [block for name in names or DOCUMENTS for block in fence.findall(DOCUMENTS[name])]


def _example(document: str, command: str, answer: Any) -> Example:
    words = shlex.split(command, comments=True)
    url, _, query = words[-1].removeprefix("$API").partition("?")
    assert words[-1].startswith("$API/") and "Authorization: Bearer $TOKEN" in words, command
    data = words[words.index("-d") + 1] if "-d" in words else None
    return Example(
        document,
        command,
        "get" if data is None else "post",
        "/v1" + url.replace("$ROOM", "%21room%3Aexample.org"),
        dict(parse_qsl(query.replace("$ROOM", "%21room%3Aexample.org"), keep_blank_values=True)),
        None if data is None else json.loads(data),
        answer,
    )


def _examples() -> Iterator[Example]:
    for name in DOCUMENTS:
        for block in _blocks("console", name):
            command, answer = block.split("\n", 1)
            assert command.startswith("$ curl -sS "), command
            yield _example(name, command.removeprefix("$ "), json.loads(answer))


def _commands() -> Iterator[Example]:
    """The commands whose answer is not shown."""
    for name in DOCUMENTS:
        for line in "".join(_blocks("sh", name)).splitlines():
            if "$API/" in line:
                yield _example(name, line[line.index("curl -sS ") :], None)


EXAMPLES = list(_examples())
COMMANDS = list(_commands())


def _ids(examples: list[Example]) -> list[str]:
    return [f"{example.document}: {example.command[-60:]}" for example in examples]


def test_every_endpoint_has_an_example() -> None:
    shown = {
        (CONTRACT.match(example.path), example.method)
        for example in EXAMPLES
        if "errcode" not in example.answer
    }
    assert shown == {(path, method) for path, method, _ in CONTRACT.operations()}


@pytest.mark.parametrize("example", EXAMPLES, ids=_ids(EXAMPLES))
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
    # What the commands are given is out of the answers beside them: of the same document, or
    # of the README, which the others go on from.
    beside = "".join(DOCUMENTS[name] for name in {example.document, "README.md"})
    for value in (
        (example.body or {}).get("plan"),
        *re.findall(r"/(?:repairs|imports)/(\w+)", example.path),
    ):
        if value is not None:
            assert beside.count(value) > 1


def test_no_answer_is_shown_twice() -> None:
    commands = [example.command for example in EXAMPLES]
    again = {command for command in commands if commands.count(command) > 1}
    # The import's dry run is shown before and after.
    assert {command for command in again if '"source": "old"}' not in command} == set()


@pytest.mark.parametrize("command", COMMANDS, ids=_ids(COMMANDS))
def test_command(command: Example) -> None:
    assert CONTRACT.match(command.path) is not None
    assert not CONTRACT.request_errors(command.method, command.path, command.query, command.body)


def _section(document: str, heading: str) -> str:
    """What stands below a heading, without its snippets, in which # is a comment."""
    prose = re.sub(r"^```\w+\n.*?^```$", "", DOCUMENTS[document], flags=re.MULTILINE | re.DOTALL)
    _, found = prose.split(f"\n{heading}\n")
    level = heading.split(" ")[0]
    return re.split(rf"\n#{{1,{len(level)}}} ", found)[0]


def _rows(section: str) -> list[str]:
    """The first cells of the tables, where they are code, without the headings."""
    return re.findall(r"^\| (`.*?) \|(?!.*\n\|---)", section, re.MULTILINE)


def _explained(document: str, heading: str) -> set[str]:
    """What the tables of a section have rows for."""
    rows = _rows(_section(document, heading))
    return {key for row in rows for key in re.findall(r"`(\w+)`", row)}


def _values(schema: Any) -> set[str]:
    return set(schema["enum"]) - {None}


SCHEMAS = CONTRACT.document["components"]["schemas"]


def test_every_key_of_the_body_is_explained() -> None:
    explained = _explained("repair.md", "## What would a repair do?")
    assert explained >= SCHEMAS["RepairRequest"]["properties"].keys()
    explained = _explained("import.md", "### 6. Import")
    assert explained == SCHEMAS["ImportsRequest"]["properties"].keys()


def test_every_count_of_the_dry_run_is_explained() -> None:
    counts = SCHEMAS["ImportCounts"]["properties"]
    assert _explained("import.md", "### 5. Look") == counts.keys()
    row = re.findall(r"^\| `media` \| (.*)", _section("import.md", "### 5. Look"), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row[0])) == counts["media"]["properties"].keys()


def test_every_value_is_explained() -> None:
    problem = SCHEMAS["Health"]["properties"]["problems"]["items"]["properties"]
    assert _explained("repair.md", "## Is the room whole?") == _values(problem["check"])
    assert _explained("repair.md", "## Follow it") == _values(SCHEMAS["Status"])
    assert _explained("repair.md", "## The diagnosis") >= _values(SCHEMAS["Check"])
    diagnosis = _section("repair.md", "## The diagnosis")
    (row,) = re.findall(r"^\| `verdict` \|(.*)", diagnosis, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == _values(SCHEMAS["Verdict"])
    skips = _values(SCHEMAS["SkipReason"]) | _values(SCHEMAS["MediaSkipReason"])
    assert _explained("import.md", "### 9. See what was left out") == skips


def test_every_error_code_is_explained() -> None:
    def codes(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            code = value.get("errcode")
            if isinstance(code, dict):
                yield from code.get("enum", [code["const"]] if "const" in code else [])
            for inner in value.values():
                yield from codes(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from codes(inner)

    section = _section("runbook.md", "## Errors for scripts")
    assert set(re.findall(r"`(\w*[A-Z]\w*)`", section)) == set(codes(CONTRACT.document))


def _reasons_of_failed_steps() -> list[str]:
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    return re.findall(r'StepFailed\([\w.]+, "([^"]+)"\)', source)


def test_every_conflict_and_failure_is_in_the_runbook() -> None:
    cells = re.findall(r"`([^`]*)`", " ".join(_first_cells("runbook.md", "## If it fails")))
    patterns = [".*".join(map(re.escape, cell.split("…"))) for cell in cells]
    shown = (HTTPStatus.CONFLICT, HTTPStatus.SERVICE_UNAVAILABLE)
    refused = [error for error, (status, _) in _HTTP.items() if status in shown]
    # What no request is answered with, a job ends with; but for what the log alone has.
    ending = set(RepairError.__subclasses__()) - _HTTP.keys() - {NobodyWrites, StepFailed}
    assert {NotStored, StateNotReached, NoMediaRepository, MediaNotCopied} <= ending
    texts = [str(StepFailed("X", reason)) for reason in _reasons_of_failed_steps()]
    assert len(texts) >= 3
    for error in (*refused, *ending):
        fields = attr.fields(error)
        texts.append(str(error(*(("X",) if "tuple" in str(f.type) else "X" for f in fields))))
    for text in texts:
        assert any(len(p) > 9 and re.search(p, text) for p in patterns), text


def test_every_action_in_the_journal_is_explained() -> None:
    section = _section("runbook.md", "## How to read the journal").split("| `action` | `orig")[1]
    explained = {name for row in _rows(section) for name in re.findall(r"`(\w+)`", row)}
    ours = {REPLACED, SKIPPED, SKIPPED_MEDIUM, UNDO}
    assert explained == {*(action.value for action in Action), *ours, "import"}


def _first_cells(document: str, heading: str) -> list[str]:
    return re.findall(r"^\| (.*?) \|", _section(document, heading), re.MULTILINE)


def _configurations(*names: str) -> list[dict[str, Any]]:
    """The `modules` of the snippets that are for homeserver.yaml."""
    snippets = map(yaml.safe_load, _blocks("yaml", *names))
    sections = [block for block in snippets if "modules" in block]
    modules = [module for section in sections for module in section["modules"]]
    for module in modules:
        assert module["module"] == f"{RejectionRepair.__module__.split('.')[0]}.RejectionRepair"
    return modules


def test_configuration() -> None:
    quick, plain = _configurations("README.md")
    (importing,) = _configurations("import.md")
    assert len(_configurations()) == 3
    default = RejectionRepair.parse_config({})
    nothing: Any = quick.get("config")
    assert RejectionRepair.parse_config(nothing) == default
    assert RejectionRepair.parse_config(plain["config"]) == default
    config = RejectionRepair.parse_config(importing["config"])
    assert {s.engine for s in config.sources.values()} == {"sqlite3", "psycopg2"}
    rows = re.findall(r"^\| `(\w+)` \|", _section("README.md", "## Configure"), re.MULTILINE)
    assert rows == [field.name for field in attr.fields(type(config))]


def test_parts_of_the_configuration() -> None:
    parts: dict[str, Any] = {}
    for block in _blocks("yaml"):
        if block.startswith(BELOW_CONFIG):
            parts.update(yaml.safe_load(block))
    config = RejectionRepair.parse_config(parts)
    assert (config.alert.room, config.alert.after) == (parts["alert"]["room"], 3)
    assert config.auto_repair == AutoRepairConfig(parts["auto_repair"]["max_events"])
    fields = {f.name for kind in (AlertConfig, AutoRepairConfig) for f in attr.fields(kind)}
    assert {key for part in parts.values() for key in part} == fields
    of_room, of_itself = "## In a room", "## Repair by itself"
    assert _explained("watch.md", of_room) | _explained("watch.md", of_itself) == fields
    source = {f.name for f in attr.fields(SourceConfig)} - {"engine", "args"}
    rows = _explained("import.md", "### 4. Name it in B's configuration")
    assert rows >= source | {"database"}


def test_example_homeserver_shows_every_field() -> None:
    text = (REPOSITORY / "example_homeserver.yaml").read_text()
    before = text.split("# A port in the name")[0]
    # What is a comment below `config` and no sentence is a field.
    uncommented = re.sub(
        r"^( {6})# (?=( *)[\w-]+:( |$)(?!.*\.$))", r"\1", before, flags=re.MULTILINE
    )
    (module,) = yaml.safe_load(uncommented)["modules"]
    config = RejectionRepair.parse_config(module["config"])
    assert module["config"].keys() == {field.name for field in attr.fields(type(config))}
    (source,) = module["config"]["sources"].values()
    assert source.keys() == {"database", "media_store_path", "immutable"}
    (module,) = yaml.safe_load(text)["modules"]
    assert RejectionRepair.parse_config(module["config"]) == RejectionRepair.parse_config({})


def _keys(value: Any) -> Any:
    """What an answer has, without what it says: of lists the first entry."""
    if isinstance(value, dict):
        return {
            k: k if k == "skipped" and not isinstance(v, list) else _keys(v)
            for k, v in value.items()
        }
    return [_keys(value[0])] if isinstance(value, list) and value else None


def _is_import(example: Example) -> bool:
    template = CONTRACT.match(example.path)
    assert template is not None
    return "Import" in CONTRACT.document["paths"][template][example.method]["tags"]


def test_import(tmp_path: Path) -> None:
    """The import's commands, one after the other, on servers that are configured as it says."""
    (importing,) = _configurations("import.md")

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
        for example in filter(_is_import, EXAMPLES):
            assert example.document == "import.md"
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
    # A proxy that hands everything on would publish Synapse's admin API.
    for line in "".join(_blocks("caddyfile")).splitlines():
        if line.strip().startswith("reverse_proxy"):
            assert line.split()[1].startswith("/")
    languages = set(re.findall(r"^ *```(\w+)$", "\n".join(DOCUMENTS.values()), re.MULTILINE))
    assert languages == {"sh", "console", "yaml", "sql", "nginx", "caddyfile", "dockerfile"}


def test_sql() -> None:
    connection = sqlite3.connect(":memory:")
    cursor = connection.cursor()
    transaction: Any = SimpleNamespace(
        database_engine=None, execute=cursor.execute, fetchall=cursor.fetchall
    )
    # Synapse's own tables, for what is said of those.
    schema = Path(synapse.storage.schema.__file__).parent / "main" / "full_schemas"
    connection.executescript(next(schema.glob("*/full.sql.sqlite")).read_text())
    create_tables(transaction)
    statements = [s for block in _blocks("sql") for s in block.split(";") if s.strip()]
    assert len(statements) >= 12
    # What drops tables comes last, wherever it is written.
    statements.sort(key=lambda statement: statement.strip().startswith("DROP"))
    of_postgres = [s for s in statements if re.search(r"::jsonb|^\s*(CREATE ROLE|GRANT) ", s)]
    assert len(of_postgres) == 3
    for statement in statements:
        if statement not in of_postgres:
            connection.execute(statement)
    names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
    assert "events" in names
    assert [name for name in names if "rejection_repair" in name] == []


def test_tables_are_listed() -> None:
    section = _section("README.md", "## What it does to the database")
    listed = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    dropped = re.findall(r"DROP TABLE (\w+)", README)
    assert len(listed) == 5 and sorted(listed) == sorted(dropped)


def test_the_layout_has_every_module() -> None:
    (layout,) = re.findall(r"^```\n(.*?)^```$", DOCUMENTS["architecture.md"], re.M | re.DOTALL)
    named = re.findall(r"^  (\S+)", layout, re.MULTILINE)
    modules = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    modules |= {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    for module in modules:
        assert any(fnmatch(module, name) for name in named), module
    for name in named:
        assert any(fnmatch(module, name) for module in modules), name


def test_journalled_and_loosened_tables_are_listed() -> None:
    written = _section("architecture.md", "## What a repair writes").split("\n2. ")[0]
    journalled, loosened = written.split("What refers to the event")
    assert {takeaway.STATE, *takeaway.OWN_ROWS} <= set(re.findall(r"`(\w+)`", journalled))
    # Those that are named where they are written, and those that are named above.
    source = inspect.getsource(takeaway._park)
    tables = {*re.findall(r"UPDATE (\w+)", source), *re.findall(r'txn, "(\w+)"', source)}
    tables |= {*takeaway._ORDERED, *takeaway._HANGING, takeaway._SNAPSHOTS}
    assert set(re.findall(r"`(\w+)`", loosened)) == tables


def test_metrics_exist() -> None:
    ours = set()
    for module in (metrics, alertchannel):
        for metric in vars(module).values():
            if isinstance(metric, MetricWrapperBase):
                (family,) = metric.describe()
                ours.add(family.name + ("_total" if family.type == "counter" else ""))
    named = re.findall(r"\bsynapse_rejection_repair_\w+", "".join(DOCUMENTS.values()))
    assert set(named) == ours
    assert {row.strip("`") for row in _rows(_section("runbook.md", "## Metrics"))} == ours


def _anchors(path: Path) -> set[str]:
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    }


def test_links() -> None:
    for path in (*PATHS, REPOSITORY / "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
            if target.startswith("https://"):
                continue
            file, _, anchor = target.partition("#")
            there = path.parent / file if file else path
            assert there.exists(), target
            assert not anchor or anchor in _anchors(there), target


def test_every_document_is_found_from_the_readme() -> None:
    for path in (REPOSITORY / "docs").iterdir():
        assert f"](docs/{path.name}" in README


def test_lines_are_short() -> None:
    for path in (*PATHS, REPOSITORY / "CHANGELOG.md"):
        fenced = False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.strip().startswith("```"):
                fenced = not fenced
            elif not fenced and not line.startswith("|"):
                assert len(line) <= LONGEST, f"{path.name}:{number}"
        assert not fenced, path.name
