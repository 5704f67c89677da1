"""Hearing of rejections as they happen: from the warnings in which Synapse logs them.

`FederationEventHandler` logs each rejection as a warning, with the event and the exception as
its arguments. So nothing of Synapse is wrapped or waits: a filter looks at each record.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Sequence

from synapse.events import EventBase
from typing_extensions import override

from synapse_rejection_repair.domain.model import Check
from synapse_rejection_repair.domain.references import is_id
from synapse_rejection_repair.domain.watch import Rejection
from synapse_rejection_repair.ports_watch import RejectionQueue

logger = logging.getLogger(__name__)

LOGGER = "synapse.handlers.federation_event"

# The functions whose warnings are rejections (`prep` is within `_auth_and_persist_outliers`).
# Elsewhere in the same file events and exceptions are logged of what is soft-failed, or not stored
# at all. Read in Synapse 1.151.0 and 1.163.2.
_REJECTING = frozenset(("_check_event_auth", "prep"))

_CHECKS = {
    "While validating received event %r: %s": Check.VALIDITY.value,
    "Rejecting %r because %s": Check.AUTH_EVENTS.value,
    "While checking auth of %r against auth_events: %s": Check.AUTH_EVENTS.value,
    "While checking auth of %r against room state before the event: %s": Check.STATE_BEFORE.value,
}

_LONGEST_ERROR = 1000
_WAITING = 10_000
"""How many rejections wait to be written at most: about 10 MB of them."""

# A level that nobody else sets, to know our own by.
_OURS = logging.WARNING - 1
_NEVER = sys.maxsize


def extract(record: logging.LogRecord) -> Rejection | None:
    """The rejection that a record tells of, `None` if it tells of something else."""
    if record.levelno != logging.WARNING or record.funcName not in _REJECTING:
        return None
    args = record.args
    if not isinstance(args, tuple) or len(args) != 2:
        return None
    event, error = args
    if not isinstance(event, EventBase) or not isinstance(error, Exception):
        return None
    return Rejection(
        event_id=event.event_id,
        room_id=event.room_id,
        check=_CHECKS.get(str(record.msg)),
        error=_one_line(str(error)),
        ts=int(record.created * 1000),
        auth_event_ids=tuple(i for i in event.auth_event_ids() if is_id(i)),
    )


def _one_line(text: str) -> str:
    # Neither database stores NUL or lone surrogates, and other servers have a say in the text.
    text = text[: _LONGEST_ERROR * 2]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())[:_LONGEST_ERROR] or "no reason given"


class LogWatch(logging.Filter, RejectionQueue):
    """Listens to the log of rejections, and changes nothing of what is logged.

    Args:
        heard: called with the check that each rejected event failed; `None` if that is not known.
    """

    def __init__(self, heard: Callable[[str | None], object]) -> None:
        super().__init__()
        self._heard = heard
        self._logger = logging.getLogger(LOGGER)
        self._own = logging.NOTSET
        self._threshold = logging.NOTSET
        self._waiting: deque[Rejection] = deque()
        self._lost = 0

    def start(self) -> None:
        """Begins to listen."""
        self._logger.addFilter(self)
        self.attend()

    def attend(self) -> None:
        """Sees to it that the warnings are made, whatever the log configuration says of them.

        A logger whose level is higher makes no record at all. Then it gets a lower level, and
        `filter` holds back what would not have been logged. To be called every now and then:
        Synapse reads its log configuration again on SIGHUP.
        """
        log = self._logger
        if log.disabled:
            self._own, log.disabled = _NEVER, False
        elif log.level != _OURS:
            self._own = log.level
        parent = log.parent.getEffectiveLevel() if log.parent else logging.NOTSET
        self._threshold = self._own or parent
        if self._threshold > logging.WARNING:
            log.setLevel(_OURS)
        elif log.level == _OURS:
            log.setLevel(self._own)

    def filter(self, record: logging.LogRecord) -> bool:
        """Notes a rejection; lets through what would be logged without this filter."""
        if record.funcName in _REJECTING:
            try:
                self._note(extract(record))
            except Exception:
                # Nothing here is worth that an event is not received.
                self._lost += 1
        return record.levelno >= self._threshold

    def _note(self, rejection: Rejection | None) -> None:
        if rejection is None:
            return
        self._heard(rejection.check)
        if len(self._waiting) < _WAITING:
            self._waiting.append(rejection)
        else:
            self._lost += 1

    @override
    def take(self) -> list[Rejection]:
        if self._lost:
            lost, self._lost = self._lost, 0
            logger.warning("The causes of %i rejections could not be recorded", lost)
        found = []
        while self._waiting:
            found.append(self._waiting.popleft())
        return found

    @override
    def put_back(self, rejections: Sequence[Rejection]) -> None:
        self._waiting.extendleft(reversed(rejections))
