"""A Synapse module for tests alone: makes a server reject events that it should accept.

It touches no database. The event takes Synapse's own path, and what follows from its rejection is
Synapse's own doing. The rules are in a JSON file, read again when it changes:

    {"reject": [{"type": "m.room.power_levels", "times": 1}]}

An event matches if all that the rule names of `type`, `state_key`, `sender`, `room_id`, `event_id`
and `body` (of its content) is equal. A rule is used up after `times` events, counted since the file
was read; without `times`, never.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from synapse.api.constants import RejectedReason
from synapse.events import EventBase
from synapse.events.snapshot import EventContext
from synapse.module_api import ModuleApi

logger = logging.getLogger(__name__)


class Sabotage:
    """Wraps the server's auth check."""

    def __init__(self, config: dict[str, Any], api: ModuleApi) -> None:
        self._control = Path(config["control"])
        self._seen: tuple[int, int, int] | None = None
        self._rules: list[dict[str, Any]] = []

        handler = api._hs.get_federation_event_handler()
        check = handler._check_event_auth

        async def sabotaged(origin: str | None, event: EventBase, context: EventContext) -> None:
            await check(origin, event, context)
            if self._strikes(event):
                logger.info("Sabotaging %s", event.event_id)
                context.rejected = RejectedReason.AUTH_ERROR

        handler._check_event_auth = sabotaged  # type: ignore[method-assign]

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
