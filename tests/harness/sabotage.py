"""A Synapse module for tests alone: makes a server reject events that it should accept.

It touches no database. The event takes Synapse's own path, and what follows from its rejection is
Synapse's own doing, and so is what it logs of it. The rules are in a JSON file, read again when it
changes:

    {"reject": [{"type": "m.room.power_levels", "times": 1}]}

An event matches if all that the rule names of `type`, `state_key`, `sender`, `room_id`, `event_id`
and `body` (of its content) is equal. A rule is used up after `times` events, counted since the file
was read; without `times`, never.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from synapse.api.errors import AuthError
from synapse.events import EventBase
from synapse.events.snapshot import EventContext
from synapse.handlers import federation_event
from synapse.module_api import ModuleApi

logger = logging.getLogger(__name__)

ERROR = "You don't have permission to add ops level greater than your own"
"""What Synapse is made to have against an event, in words of its own."""


class Sabotage:
    """Wraps the server's auth check."""

    def __init__(self, config: dict[str, Any], api: ModuleApi) -> None:
        self._control = Path(config["control"])
        self._seen: tuple[int, int, int] | None = None
        self._rules: list[dict[str, Any]] = []

        handler = api._hs.get_federation_event_handler()
        check = handler._check_event_auth
        module: Any = federation_event
        check_rules = module.check_state_dependent_auth_rules
        received: set[str] = set()

        # The same rules are asked of outliers and for soft failures, which are not to be struck.
        async def sabotaged(origin: str | None, event: EventBase, context: EventContext) -> None:
            received.add(event.event_id)
            try:
                await check(origin, event, context)
            finally:
                received.discard(event.event_id)

        def sabotaged_rules(event: EventBase, auth_events: Iterable[EventBase]) -> None:
            if event.event_id in received and self._strikes(event):
                logger.info("Sabotaging %s", event.event_id)
                raise AuthError(403, ERROR)
            check_rules(event, auth_events)

        handler._check_event_auth = sabotaged  # type: ignore[method-assign]
        module.check_state_dependent_auth_rules = sabotaged_rules

    def _strikes(self, event: EventBase) -> bool:
        self._read()
        facts = {
            "type": event.type,
            "state_key": event.get_state_key(),
            "sender": event.sender,
            "room_id": event.room_id,
            "event_id": event.event_id,
            "body": event.content.get("body"),
        }
        for rule in self._rules:
            if rule["times"] != 0 and all(
                facts[name] == value for name, value in rule.items() if name != "times"
            ):
                if rule["times"] is not None:
                    rule["times"] -= 1
                return True
        return False

    def _read(self) -> None:
        try:
            status = os.stat(self._control)
        except FileNotFoundError:
            return
        # Each new version of the file is a new inode, even within one tick of the clock.
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._seen = seen
            self._rules = json.loads(self._control.read_text())["reject"]
            for rule in self._rules:
                rule.setdefault("times", None)
