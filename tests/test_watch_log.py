"""What is taken from Synapse's log, and that the log is as it would be without."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from synapse.api.errors import AuthError
from synapse.api.room_versions import RoomVersions
from synapse.events import EventBase, make_event_from_dict

from synapse_rejection_repair.adapter import watch as watch_module
from synapse_rejection_repair.adapter.watch import _OURS, LogWatch, extract

# What Synapse logs.

AGAINST_AUTH = "While checking auth of %r against auth_events: %s"
REJECTION = ("_check_event_auth", AGAINST_AUTH, "auth_events")


def _event(**fields: Any) -> EventBase:
    content = {
        "type": "m.room.message",
        "room_id": "!room:example.org",
        "sender": "@alice:example.org",
        "content": {"body": "secret"},
        "auth_events": ["$create", "$member"],
        "prev_events": [],
        "depth": 1,
        "origin_server_ts": 1,
        "hashes": {"sha256": "x"},
        "signatures": {},
    }
    return make_event_from_dict({**content, **fields}, RoomVersions.V10)


def _record(
    function: str, message: str, *args: object, level: int = logging.WARNING
) -> logging.LogRecord:
    name = "synapse.handlers.federation_event"
    return logging.LogRecord(name, level, "", 1, message, args, None, function)


@pytest.mark.parametrize(
    ("function", "message", "check"),
    [
        REJECTION,
        ("_check_event_auth", "While validating received event %r: %s", "validity"),
        (
            "_check_event_auth",
            "While checking auth of %r against room state before the event: %s",
            "state_before",
        ),
        ("prep", "Rejecting %r because %s", "auth_events"),
        ("prep", "While validating received event %r: %s", "validity"),
        ("_check_event_auth", "Words of a Synapse to come: %r, %s", None),
    ],
)
def test_rejections(function: str, message: str, check: str | None) -> None:
    event = _event()
    found = extract(_record(function, message, event, AuthError(403, "No")))
    assert found is not None
    assert (found.event_id, found.room_id) == (event.event_id, "!room:example.org")
    assert (found.check, found.error) == (check, "403: No")
    assert found.auth_event_ids == ("$create", "$member")
    assert found.ts > 1_000_000_000_000


@pytest.mark.parametrize(
    "record",
    [
        _record("_check_for_soft_fail", "Soft-failing %r (from %s) because %s", _event(), "a", "b"),
        _record(
            "_load_or_fetch_auth_events_for_event",
            "Failed to get auth chain for %s: %s",
            _event(),
            AuthError(403, "No"),
        ),
        _record(
            "_process_pulled_event", "Event %s failed sanity check: %s", "$x", AuthError(403, "No")
        ),
        _record("prep", "Dropping event %s, which relies on %s", _event(), "$x"),
        _record(*REJECTION[:2], _event(), AuthError(403, "No"), level=logging.INFO),
        _record(*REJECTION[:2], "$x", AuthError(403, "No")),
        _record("_check_event_auth", "Nothing"),
    ],
    ids=lambda record: str(record.msg)[:30],
)
def test_what_is_no_rejection(record: logging.LogRecord) -> None:
    assert extract(record) is None


def test_errors_are_fit_for_a_table_and_a_log() -> None:
    for text, cleaned in (
        ("a\0b\nc\r\x1b[31md", "403: a b c [31md"),
        ("\ud800", "403:"),
        ("x" * 10_000, "403: " + "x" * 995),
    ):
        found = extract(_record(*REJECTION[:2], _event(), AuthError(403, text)))
        assert found is not None and found.error == cleaned


class _Broken(Exception):
    def __str__(self) -> str:
        raise ValueError


def test_the_log_goes_on_whatever_happens() -> None:
    heard: list[str | None] = []
    watch = LogWatch(heard.append)
    broken = _record(*REJECTION[:2], _event(), _Broken())
    assert watch.filter(broken) and watch.take() == [] == heard
    assert watch.filter(_record(*REJECTION[:2], _event(), AuthError(403, "No")))
    assert len(heard) == 1
    found = watch.take()
    watch.put_back(found)
    assert watch.take() == found and watch.take() == []


def test_memory_is_bounded() -> None:
    watch = LogWatch(lambda _: None)
    event = _event()
    for _ in range(10_100):
        watch.filter(_record(*REJECTION[:2], event, AuthError(403, "No")))
    assert len(watch.take()) == 10_000


# Levels.


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """A logger of our own below a parent of our own."""
    monkeypatch.setattr(watch_module, "LOGGER", "watched.child")
    parent, logger = logging.getLogger("watched"), logging.getLogger("watched.child")
    parent.setLevel(logging.INFO)
    yield logger
    logger.setLevel(logging.NOTSET)
    logger.disabled = False
    logger.filters.clear()


def _shown(logger: logging.Logger) -> list[int]:
    """The levels that get through to a handler."""
    shown: list[int] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            shown.append(record.levelno)

    handler = Handler()
    logger.addHandler(handler)
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(level, "Something")
    logger.removeHandler(handler)
    return shown


def _cause(logger: logging.Logger) -> None:
    def _check_event_auth() -> None:
        logger.warning(AGAINST_AUTH, _event(), AuthError(403, "No"))

    _check_event_auth()


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING])
def test_levels_that_are_low_enough_stay(logger: logging.Logger, level: int) -> None:
    assert logger.parent is not None
    logger.parent.setLevel(level)
    before = _shown(logger)
    LogWatch(lambda _: None).start()
    assert logger.level == logging.NOTSET
    assert _shown(logger) == before


@pytest.mark.parametrize("level", [logging.ERROR, logging.CRITICAL])
@pytest.mark.parametrize("own", [True, False])
def test_rejections_are_noticed_at_every_level(
    logger: logging.Logger, level: int, own: bool
) -> None:
    assert logger.parent is not None
    (logger if own else logger.parent).setLevel(level)
    before = _shown(logger)
    watch = LogWatch(lambda _: None)
    watch.start()
    watch.attend()
    assert logger.level == _OURS
    assert _shown(logger) == before
    _cause(logger)
    assert len(watch.take()) == 1

    # A log configuration that is read again has the last word.
    logger.setLevel(logging.NOTSET)
    logger.parent.setLevel(logging.INFO)
    watch.attend()
    assert logger.level == logging.NOTSET
    assert _shown(logger) == [logging.INFO, logging.WARNING, logging.ERROR]
    _cause(logger)
    assert len(watch.take()) == 1


def test_a_logger_that_is_off(logger: logging.Logger) -> None:
    logger.disabled = True
    watch = LogWatch(lambda _: None)
    watch.start()
    assert _shown(logger) == []
    _cause(logger)
    assert len(watch.take()) == 1
    assert watch._threshold == sys.maxsize
