"""How the configuration names old databases."""

from __future__ import annotations

from typing import Any

import pytest

from synapse_rejection_repair.config import BadConfig, parse_config

SQLITE = {"database": {"name": "sqlite3", "args": {"database": "/old/homeserver.db"}}}
POSTGRES = {"database": {"name": "psycopg2", "args": {"host": "old", "password": "hunter2"}}}


def test_sources() -> None:
    config = parse_config(
        {"sources": {"a": SQLITE, "b": {**SQLITE, "immutable": True}, "c.d": POSTGRES}}
    )
    assert sorted(config.sources) == ["a", "b", "c.d"]
    assert config.sources["a"].args == {"database": "/old/homeserver.db"}
    assert [s.immutable for s in config.sources.values()] == [False, True, False]
    assert [s.engine for s in config.sources.values()] == ["sqlite3", "sqlite3", "psycopg2"]
    media = parse_config({"sources": {"a": {**SQLITE, "media_store_path": "/old/media"}}})
    assert media.sources["a"].media_store_path == "/old/media"
    assert "/old" not in repr(media)
    assert "hunter2" not in repr(config) and "/old" not in repr(config)
    # A section of Synapse's own, as it is.
    own = {"database": {**POSTGRES["database"], "txn_limit": 10000, "allow_unsafe_locale": True}}
    assert parse_config({"sources": {"a": own}}).sources["a"].args == POSTGRES["database"]["args"]
    assert parse_config({}).sources == parse_config({"sources": None}).sources == {}


@pytest.mark.parametrize(
    ("sources", "field"),
    [
        ([], "sources"),
        ({1: SQLITE}, "sources"),
        ({"": SQLITE}, "sources"),
        ({"a/b": SQLITE}, "sources"),
        ({"a": None}, "sources.a"),
        ({"a": {}}, "sources.a.database"),
        ({"a": {**SQLITE, "mediastore": "/"}}, "sources.a.mediastore"),
        ({"a": {"database": {"name": "mysql", "args": {}}}}, "sources.a.database.name"),
        ({"a": {"database": {"name": "sqlite3"}}}, "sources.a.database.args.database"),
        (
            {"a": {"database": {"name": "sqlite3", "args": {"database": ""}}}},
            "sources.a.database.args.database",
        ),
        (
            {"a": {"database": {"name": "sqlite3", "args": {"database": ":memory:"}}}},
            "sources.a.database.args.database",
        ),
        ({"a": {"database": {"name": "psycopg2", "args": []}}}, "sources.a.database.args"),
        ({"a": {"database": {"name": "psycopg2", "arg": {}}}}, "sources.a.database.arg"),
        ({"a": {**SQLITE, "immutable": "yes"}}, "sources.a.immutable"),
        ({"a": {**POSTGRES, "immutable": True}}, "sources.a.immutable"),
        ({"a": {**SQLITE, "media_store_path": "media_store"}}, "sources.a.media_store_path"),
        ({"a": {**SQLITE, "media_store_path": 1}}, "sources.a.media_store_path"),
    ],
)
def test_what_is_wrong_is_named(sources: Any, field: str) -> None:
    with pytest.raises(BadConfig) as error:
        parse_config({"sources": sources})
    assert error.value.field == field
    assert "hunter2" not in str(error.value) and "/old" not in str(error.value)
