"""A Synapse module for tests alone: answers other servers as it is told in a JSON file.

{"delay": 30}                     answers `/state_ids` late
{"status": 500}                   answers it with that status
{"body": {"pdu_ids": ["$x"]}}     answers it with that
{"events": {"$x": {…}}}           answers `/event` with that where it is asked for `$x`
{"events": {"$x": null}}          answers that there is none
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from synapse.api.errors import SynapseError
from synapse.federation.federation_server import FederationServer
from synapse.module_api import ModuleApi


class Liar:
    """Wraps the server's way of answering for the state before an event, and for events."""

    def __init__(self, config: dict[str, Any], api: ModuleApi) -> None:
        control = Path(config["control"])
        honest, honest_event = (
            FederationServer.on_state_ids_request,
            FederationServer.on_pdu_request,
        )

        def told() -> dict[str, Any]:
            answers: dict[str, Any] = json.loads(control.read_text()) if control.exists() else {}
            return answers

        async def answer(server: Any, *args: Any, **kwargs: Any) -> Any:
            answers = told()
            if "delay" in answers:
                await api.sleep(answers["delay"])
            if "status" in answers:
                raise SynapseError(answers["status"], "I will not say <script>")
            if "body" in answers:
                return 200, answers["body"]
            return await honest(server, *args, **kwargs)

        async def answer_event(server: Any, origin: str, event_id: str) -> Any:
            events = told().get("events", {})
            if event_id not in events:
                return await honest_event(server, origin, event_id)
            if events[event_id] is None:
                return 404, ""
            return 200, {
                "origin": api.server_name,
                "origin_server_ts": 0,
                "pdus": [events[event_id]],
            }

        FederationServer.on_state_ids_request = answer  # type: ignore[method-assign,assignment]
        FederationServer.on_pdu_request = answer_event  # type: ignore[method-assign,assignment]
