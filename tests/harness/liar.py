"""A Synapse module for tests alone: answers `/state_ids` as it is told in a JSON file.

{"delay": 30}                     answers late
{"status": 500}                   answers with that status
{"body": {"pdu_ids": ["$x"]}}     answers that
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from synapse.api.errors import SynapseError
from synapse.federation.federation_server import FederationServer
from synapse.module_api import ModuleApi


class Liar:
    """Wraps the server's way of answering for the state before an event."""

    def __init__(self, config: dict[str, Any], api: ModuleApi) -> None:
        control = Path(config["control"])
        honest = FederationServer.on_state_ids_request

        async def answer(server: Any, *args: Any, **kwargs: Any) -> Any:
            told = json.loads(control.read_text()) if control.exists() else {}
            if "delay" in told:
                await api.sleep(told["delay"])
            if "status" in told:
                raise SynapseError(told["status"], "I will not say <script>")
            if "body" in told:
                return 200, told["body"]
            return await honest(server, *args, **kwargs)

        FederationServer.on_state_ids_request = answer  # type: ignore[method-assign,assignment]
