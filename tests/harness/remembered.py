"""A Synapse module for tests alone: tells which resolutions of states a process remembers."""

from __future__ import annotations

from typing import Any

from synapse.http.server import DirectServeJsonResource
from synapse.http.site import SynapseRequest
from synapse.module_api import ModuleApi

PATH = "/_synapse/remembered"


class Remembered:
    """Answers with `{"keys": […]}`."""

    def __init__(self, config: dict[str, Any], api: ModuleApi) -> None:
        hs = api._hs

        class Resource(DirectServeJsonResource):
            isLeaf = True

            async def _async_render_GET(self, request: SynapseRequest) -> tuple[int, Any]:
                resolution: Any = hs.get_state_resolution_handler()
                # By state groups, and in newer versions by a digest of conflicting events.
                keys = [repr(sorted(groups)) for groups in resolution._state_cache._cache]
                if hasattr(resolution, "_conflict_resolution_cache"):
                    keys += [key.hex() for key in resolution._conflict_resolution_cache._cache]
                return 200, {"keys": keys}

        api.register_web_resource(PATH, Resource(clock=hs.get_clock()))
