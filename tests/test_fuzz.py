"""Requests that are made up after the OpenAPI document: none is answered with 500.

`FUZZ_EXAMPLES` says how many are made up for each endpoint.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.harness.client import REPAIR_API
from tests.harness.federation import Pair, running
from tests.harness.incident import make_incident
from tests.harness.process import REPOSITORY
from tests.harness.server import Server
from tests.oldworld import OldRoom, begin, come_late, live, sources

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "15"))

schema = schemathesis.openapi.from_path(str(REPOSITORY / "docs" / "openapi.yaml"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OldRoom]:
    folder = tmp_path_factory.mktemp("fuzz")
    a = Server(folder / "a", modules=[])
    b = Server(folder / "b", modules=sources(old=a.database.synapse_config()))
    with running(a, b):
        old = begin(a, b, "11")
        live(old, 12)
        come_late(old)
        make_incident(Pair(a, b).room("11"))
        yield old


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize="FUZZ_EXAMPLES" not in os.environ,
)
def test_whatever_is_asked(case: Any, world: OldRoom) -> None:
    if "room_id" in case.path_parameters and len(case.path_parameters["room_id"]) % 2:
        case.path_parameters["room_id"] = world.room_id
    if "name" in case.path_parameters and len(case.path_parameters["name"]) % 2:
        case.path_parameters["name"] = "old"
    case.call_and_validate(
        base_url=world.b.url + REPAIR_API.removesuffix("/v1"),
        headers={"Authorization": f"Bearer {world.bob.access_token}"},
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ],
    )


def test_nothing_went_wrong(world: OldRoom) -> None:
    assert world.b.errors_in_log() == []
